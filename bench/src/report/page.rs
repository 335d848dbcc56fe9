//! The page that this run's tables and plots are put into.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use indicatif::HumanDuration;

use super::table::{Look, missing, sections};
use super::{Parameters, Report};
use crate::figure::Figure;
use crate::plot::Plot;

/// What is between these is made by the benchmark.
const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// How many figures a page shows at once; more have to be asked for, as the plots show them.
const LONG: usize = 30;

/// Puts tables and plots into `page`, between its two markers, and the plots of `directory` beside it.
///
/// # Errors
/// Where the page has no markers, or a file can't be read or written.
pub fn update(report: &Report, page: &Path, directory: &Path, plots: &[Plot]) -> Result<()> {
    let shown = page.display();
    let text = fs::read_to_string(page).with_context(|| format!("reading {shown}"))?;
    let beside = page.with_extension("");
    fs::create_dir_all(&beside).with_context(|| format!("making {}", beside.display()))?;
    for plot in plots {
        let file = format!("{}.svg", plot.name);
        fs::copy(directory.join(&file), beside.join(&file))
            .with_context(|| format!("copying {file} to {}", beside.display()))?;
    }
    let place = beside.file_name().unwrap_or_default().to_string_lossy();
    let text = replaced(&text, &generated(report, &place, plots))
        .with_context(|| format!("{shown} has no {BEGIN} with an {END} behind"))?;
    fs::write(page, text).with_context(|| format!("writing {shown}"))
}

/// What goes between the markers; plots are in the directory `place`.
fn generated(report: &Report, place: &str, plots: &[Plot]) -> String {
    let images = |measurement: Option<&str>| {
        let of_it = plots
            .iter()
            .filter(|plot| plot.measurement.as_deref() == measurement);
        of_it.fold(String::new(), |text, plot| {
            text + &format!("![{}]({place}/{}.svg)\n\n", plot.title, plot.name)
        })
    };
    let mut text = about(report) + &images(None);
    for section in sections(report, Look::Markdown) {
        let is_same = |it: &&Figure| it.measurement == section.measurement;
        let table = if report.figures.iter().filter(is_same).count() > LONG {
            format!(
                "<details><summary>Figures</summary>\n\n{}\n\n</details>",
                section.table
            )
        } else {
            section.table
        };
        let images = images(Some(&section.measurement));
        text.extend([&section.heading, "\n\n", &images, &table, "\n\n"]);
    }
    text + &missing(&report.left_out, Look::Markdown)
}

/// How the figures came about.
fn about(report: &Report) -> String {
    let machine = &report.machine;
    let Parameters {
        quick,
        seed,
        seconds,
        ..
    } = report.parameters;
    let kind = if quick { "`--quick` run" } else { "run" };
    let place = if machine.is_virtual {
        "virtual machine"
    } else {
        "machine"
    };
    let took = HumanDuration(Duration::from_secs_f64(seconds));
    format!(
        "{}, a {kind} of {took}, seed {seed}. {}, {} cores, {} GiB, {place}. Linux {}, load {:.1} \
         before.\n\n",
        machine.date,
        machine.cpu,
        machine.cores,
        machine.memory >> 30,
        machine.kernel,
        machine.load
    )
}

fn replaced(text: &str, generated: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!(
        "{before}{BEGIN}\n\n{}\n\n{END}{after}",
        generated.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_between_the_markers_is_replaced_and_nothing_else() {
        let page = format!("# Page\n\n{BEGIN}\nold\n{END}\n\nWords.\n");
        let once = replaced(&page, "new\n").expect("markers");
        assert_eq!(
            once,
            format!("# Page\n\n{BEGIN}\n\nnew\n\n{END}\n\nWords.\n")
        );
        assert_eq!(replaced(&once, "new").as_deref(), Some(once.as_str()));
        for page in ["no markers", END, BEGIN] {
            assert_eq!(replaced(page, "new"), None, "{page}");
        }
        assert_eq!(replaced(&format!("{END}{BEGIN}"), "new"), None);
    }
}
