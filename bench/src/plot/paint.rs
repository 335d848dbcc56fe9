//! How a plot is drawn, whatever it is drawn on.

use std::error::Error;

use anyhow::{Result, anyhow};
use plotters::chart::{ChartBuilder, ChartContext};
use plotters::coord::Shift;
use plotters::prelude::{
    Cartesian2d, Circle, DrawingArea, DrawingBackend, PathElement, Rectangle, Text,
};
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{
    BLACK, Color as _, FontStyle, IntoFont as _, IntoTextStyle as _, RGBColor, WHITE,
};

use super::axis::{Axis, Side};
use super::chart::{Chart, Form};
use crate::report::{compact, ratio, short};
use crate::sample::Variant;
use crate::stats::{Summary, to_f64};

/// The name under which the embedded font is known, which viewers of an SVG know as well.
pub const FONT: &str = "sans-serif";

/// The part of a category's width that its bars take.
const GROUP: f64 = 0.84;

/// Sizes, in pixels of an SVG.
const TITLE: u32 = 19;
const LABEL: u32 = 14;
const SMALL: u32 = 11;

type Plane = Cartesian2d<Side, Side>;

/// Draws a plot, every size times `scale`.
///
/// # Errors
/// Where the backend fails.
pub fn paint<B: DrawingBackend>(
    root: &DrawingArea<B, Shift>,
    chart: &Chart,
    scale: u32,
) -> Result<()>
where
    B::ErrorType: 'static,
{
    let painter = Painter {
        chart,
        axis: axis(chart),
        scale,
    };
    // The backend's errors need not be fit for threads, which those of anyhow are.
    painter.paint(root).map_err(|error| anyhow!("{error}"))
}

/// The axis that all values fit on.
fn axis(chart: &Chart) -> Axis {
    let values = chart
        .series
        .iter()
        .flat_map(|(_, values)| values.iter().flatten());
    let ends = values.flat_map(|it| [it.q1, it.q3]).chain(chart.reference);
    Axis::new(chart.scale, &ends.collect::<Vec<_>>())
}

struct Painter<'a> {
    chart: &'a Chart,
    axis: Axis,
    scale: u32,
}

type Drawn = Result<(), Box<dyn Error>>;

impl Painter<'_> {
    fn paint<B: DrawingBackend>(&self, root: &DrawingArea<B, Shift>) -> Drawn
    where
        B::ErrorType: 'static,
    {
        root.fill(&WHITE)?;
        let (head, body) = root.split_vertically(self.px(66));
        self.head(&head)?;
        let count = to_f64(self.chart.categories.len());
        let middles = (0..self.chart.categories.len()).map(|index| to_f64(index) + 0.5);
        let mut plane = ChartBuilder::on(&body)
            .margin_left(self.px(14))
            .margin_right(self.px(20))
            .margin_bottom(self.px(8))
            .x_label_area_size(self.px(if self.chart.x_label.is_empty() {
                30
            } else {
                46
            }))
            .y_label_area_size(self.px(84))
            .build_cartesian_2d(
                Side::new((0.0, count), middles.collect()),
                Side::new((self.axis.low, self.axis.high), self.axis.ticks.clone()),
            )?;
        self.mesh(&mut plane)?;
        if let Some(reference) = self.chart.reference {
            let height = self.axis.height(reference);
            let line = vec![(0.0, height), (count, height)];
            plane
                .plotting_area()
                .draw(&PathElement::new(line, BLACK.stroke_width(self.scale)))?;
        }
        match self.chart.form {
            Form::Bars => self.bars(&plane),
            Form::Lines => self.lines(&plane),
        }
    }

    /// The title, and which colour is which variant.
    fn head<B: DrawingBackend>(&self, area: &DrawingArea<B, Shift>) -> Drawn
    where
        B::ErrorType: 'static,
    {
        let left = i32::try_from(self.px(24))?;
        let title = self
            .text(TITLE)
            .style(FontStyle::Bold)
            .into_text_style(area);
        area.draw(&Text::new(
            self.chart.title.clone(),
            (left, self.at(12)?),
            title,
        ))?;
        let style = self.text(LABEL).into_text_style(area);
        let mut x = left;
        let y = self.at(42)?;
        for (variant, _) in &self.chart.series {
            let square = [(x, y), (x + self.at(12)?, y + self.at(12)?)];
            area.draw(&Rectangle::new(square, colour(*variant).filled()))?;
            let name = variant.to_string();
            let (width, _) = area.estimate_text_size(&name, &style)?;
            area.draw(&Text::new(
                name,
                (x + self.at(18)?, y - self.at(1)?),
                style.clone(),
            ))?;
            x += i32::try_from(width)? + self.at(42)?;
        }
        Ok(())
    }

    fn mesh<B: DrawingBackend>(&self, plane: &mut ChartContext<'_, B, Plane>) -> Drawn
    where
        B::ErrorType: 'static,
    {
        let categories = &self.chart.categories;
        let name = |x: &f64| {
            let at = categories.iter().enumerate();
            let mut at = at.filter(|(index, _)| (to_f64(*index) + 0.5 - x).abs() < 0.01);
            at.next().map_or_else(String::new, |(_, name)| name.clone())
        };
        let value = |height: &f64| match self.axis.value(*height) {
            value if value < 0.0001 => "0".to_owned(),
            value if value >= 10.0 => short(value.round()),
            value => format!("{}", (value * 1000.0).round() / 1000.0),
        };
        plane
            .configure_mesh()
            .disable_x_mesh()
            .light_line_style(WHITE.mix(0.0))
            .bold_line_style(RGBColor(222, 222, 222).stroke_width(self.scale))
            .axis_style(RGBColor(120, 120, 120).stroke_width(self.scale))
            .label_style(self.text(LABEL))
            .axis_desc_style(self.text(LABEL))
            .x_label_formatter(&name)
            .y_label_formatter(&value)
            .x_desc(&self.chart.x_label)
            .y_desc(&self.chart.y_label)
            .draw()?;
        Ok(())
    }

    fn bars<B: DrawingBackend>(&self, plane: &ChartContext<'_, B, Plane>) -> Drawn
    where
        B::ErrorType: 'static,
    {
        let width = GROUP / to_f64(self.chart.series.len());
        for (number, (variant, values)) in self.chart.series.iter().enumerate() {
            for (category, value) in values.iter().enumerate() {
                let Some(summary) = value else { continue };
                let left = to_f64(category) + (1.0 - GROUP) / 2.0 + width * to_f64(number);
                let top = self.axis.height(summary.median);
                let corners = [(left, self.axis.low), (left + width * 0.92, top)];
                let bar = Rectangle::new(corners, colour(*variant).filled());
                plane.plotting_area().draw(&bar)?;
                let middle = left + width * 0.46;
                self.spread(plane, middle, summary)?;
                self.value(plane, (middle, summary), width)?;
            }
        }
        Ok(())
    }

    fn lines<B: DrawingBackend>(&self, plane: &ChartContext<'_, B, Plane>) -> Drawn
    where
        B::ErrorType: 'static,
    {
        for (variant, values) in &self.chart.series {
            let points: Vec<_> = values
                .iter()
                .enumerate()
                .filter_map(|(category, value)| Some((to_f64(category) + 0.5, value.as_ref()?)))
                .collect();
            let path: Vec<_> = points
                .iter()
                .map(|(x, it)| (*x, self.axis.height(it.median)))
                .collect();
            let style = colour(*variant).stroke_width(2 * self.scale);
            plane
                .plotting_area()
                .draw(&PathElement::new(path.clone(), style))?;
            for (at, (x, summary)) in path.into_iter().zip(&points) {
                let point = Circle::new(at, self.at(4)?, colour(*variant).filled());
                plane.plotting_area().draw(&point)?;
                self.spread(plane, *x, summary)?;
            }
        }
        Ok(())
    }

    /// A line over the middle half of the values.
    fn spread<B: DrawingBackend>(
        &self,
        plane: &ChartContext<'_, B, Plane>,
        x: f64,
        summary: &Summary,
    ) -> Drawn
    where
        B::ErrorType: 'static,
    {
        let [low, high] = [summary.q1, summary.q3].map(|value| (x, self.axis.height(value)));
        let line = PathElement::new(vec![low, high], BLACK.mix(0.7).stroke_width(self.scale));
        plane.plotting_area().draw(&line)?;
        Ok(())
    }

    /// The value above a bar, where there is room.
    fn value<B: DrawingBackend>(
        &self,
        plane: &ChartContext<'_, B, Plane>,
        (x, summary): (f64, &Summary),
        width: f64,
    ) -> Drawn
    where
        B::ErrorType: 'static,
    {
        let area = plane.plotting_area();
        let above = Pos::new(HPos::Center, VPos::Bottom);
        let style = self.text(SMALL).into_text_style(area).pos(above);
        let text = match self.chart.reference {
            Some(_) => ratio(summary.median),
            None => compact(summary.median),
        };
        let (needed, _) = area.estimate_text_size(&text, &style)?;
        let (columns, _) = area.dim_in_pixel();
        let room = width * f64::from(columns) / to_f64(self.chart.categories.len());
        if f64::from(needed) > room {
            return Ok(());
        }
        let height = self.axis.height(summary.q3.max(summary.median));
        let lift = (self.axis.high - self.axis.low) * 0.008;
        area.draw(&Text::new(text, (x, height + lift), style))?;
        Ok(())
    }

    fn text(&self, size: u32) -> plotters::style::FontDesc<'static> {
        (FONT, self.px(size)).into_font()
    }

    fn px(&self, size: u32) -> u32 {
        size * self.scale
    }

    fn at(&self, size: u32) -> Result<i32, std::num::TryFromIntError> {
        i32::try_from(self.px(size))
    }
}

/// Colours that people who see colours differently can tell apart (Okabe and Ito).
fn colour(variant: Variant) -> RGBColor {
    match variant {
        Variant::Direct => RGBColor(140, 140, 140),
        Variant::Ebpf => RGBColor(0, 114, 178),
        Variant::EbpfShortcut => RGBColor(0, 158, 115),
        Variant::IptablesLegacy => RGBColor(230, 159, 0),
        Variant::IptablesNft => RGBColor(213, 94, 0),
    }
}
