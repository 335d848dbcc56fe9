//! Plots, as SVG and PNG. They bring their font along: a fresh machine has none.

mod axis;
mod chart;
mod paint;

use std::fs;
use std::path::Path;
use std::sync::Once;

use anyhow::{Context as _, Error, Result};
use plotters::backend::{BitMapBackend, SVGBackend};
use plotters::prelude::IntoDrawingArea as _;
use plotters::style::{FontStyle, register_font};

use crate::figure::Figure;
use chart::Chart;

/// Width and height of a plot; a PNG has twice as many pixels.
const SIZE: (u32, u32) = (1000, 500);

/// How many pixels of a PNG make one of an SVG.
const PNG_SCALE: u32 = 2;

/// A plot that was drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plot {
    /// Its files' name, without `.svg` or `.png`.
    pub name: String,
    /// What is over it.
    pub title: String,
    /// The measurement that it is of; none if it is of several.
    pub measurement: Option<String>,
}

/// Draws all plots that the figures are enough for.
///
/// # Errors
/// Where a plot can't be drawn or written.
pub fn draw(figures: &[Figure], directory: &Path) -> Result<Vec<Plot>> {
    fs::create_dir_all(directory).with_context(|| format!("making {}", directory.display()))?;
    let charts = chart::charts(figures);
    for chart in &charts {
        draw_one(chart, directory).with_context(|| format!("drawing {}", chart.name))?;
    }
    let drawn = charts.into_iter().map(|chart| Plot {
        name: chart.name,
        title: chart.title,
        measurement: chart.measurement,
    });
    Ok(drawn.collect())
}

fn draw_one(chart: &Chart, directory: &Path) -> Result<()> {
    register_fonts();
    let svg = directory.join(format!("{}.svg", chart.name));
    let root = SVGBackend::new(&svg, SIZE).into_drawing_area();
    paint::paint(&root, chart, 1)?;
    root.present()?;
    drop(root);
    let png = directory.join(format!("{}.png", chart.name));
    let (width, height) = SIZE;
    let size = (width * PNG_SCALE, height * PNG_SCALE);
    let root = BitMapBackend::new(&png, size).into_drawing_area();
    paint::paint(&root, chart, PNG_SCALE)?;
    root.present().map_err(Error::from)
}

fn register_fonts() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        let fonts = [
            (FontStyle::Normal, dejavu::sans::regular()),
            (FontStyle::Bold, dejavu::sans::bold()),
        ];
        for (style, font) in fonts {
            let registered = register_font(paint::FONT, style, font);
            assert!(registered.is_ok(), "the embedded font is one");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::figure::figures;
    use crate::sample::{Better, Sample, Variant};

    #[test]
    fn plots_are_written_in_both_formats_with_all_their_labels() {
        let settings = ["ranges=0", "ranges=1000"];
        let variants = [Variant::Direct, Variant::Ebpf, Variant::IptablesNft];
        let sample = |setting: &str, variant| Sample {
            measurement: "lists-connections-outbound".into(),
            setting: setting.into(),
            variant,
            unit: "1/s".into(),
            value: 40_000.0,
            better: Better::Higher,
        };
        let samples: Vec<_> = settings
            .iter()
            .flat_map(|setting| variants.map(|variant| sample(setting, variant)))
            .collect();
        let directory = osm_tests::TempDir::new();
        let plots = draw(&figures(&samples), directory.path()).expect("plots");
        let names: Vec<_> = plots.iter().map(|plot| plot.name.as_str()).collect();
        assert_eq!(names, ["lists-connections-outbound-ranges"]);
        let read = |kind: &str| {
            let file = directory.path().join(format!("{}.{kind}", names[0]));
            fs::read(file).expect("the plot")
        };
        let svg = String::from_utf8(read("svg")).expect("SVG is text");
        for label in ["iptables-nft", "eBPF", "direct", "1,000", "ranges", "1/s"] {
            assert!(svg.contains(label), "{label} is missing");
        }
        assert!(!svg.contains("iptables-legacy"), "nobody measured that");
        assert!(read("png").starts_with(b"\x89PNG"));
    }
}
