//! The axis of values: where it begins and ends, and where its ticks are.

use std::ops::Range;

use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;

/// How values become heights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// From 0, evenly.
    Linear,
    /// Powers of ten, evenly.
    Log,
}

/// An axis. Heights are values, or their decimal logarithms.
#[derive(Clone, Debug, PartialEq)]
pub struct Axis {
    scale: Scale,
    /// The height where it begins.
    pub low: f64,
    /// The height where it ends.
    pub high: f64,
    /// The heights of its ticks.
    pub ticks: Vec<f64>,
}

/// How many ticks a linear axis has at most.
const MOST_TICKS: f64 = 6.0;

impl Axis {
    /// One that all values fit on.
    #[must_use]
    pub fn new(scale: Scale, values: &[f64]) -> Self {
        match scale {
            Scale::Linear => Self::linear(values),
            Scale::Log => Self::log(values),
        }
    }

    /// The height of a value. On a logarithmic axis, what is not positive is at the bottom.
    #[must_use]
    pub fn height(&self, value: f64) -> f64 {
        match self.scale {
            Scale::Linear => value,
            Scale::Log if value > 0.0 => value.log10().max(self.low),
            Scale::Log => self.low,
        }
    }

    /// The value at a height.
    #[must_use]
    pub fn value(&self, height: f64) -> f64 {
        match self.scale {
            Scale::Linear => height,
            Scale::Log => 10_f64.powf(height),
        }
    }

    fn linear(values: &[f64]) -> Self {
        let most = values.iter().copied().fold(0.0, f64::max);
        let most = if most > 0.0 { most } else { 1.0 };
        let rough = most / MOST_TICKS;
        let power = 10_f64.powf(rough.log10().floor());
        let steps = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power);
        let step = steps.into_iter().find(|step| *step >= rough * 0.999);
        let step = step.unwrap_or(10.0 * power);
        let ticks: Vec<f64> = (0..=100_u8)
            .map(|count| f64::from(count) * step)
            .take_while(|tick| *tick <= most * 1.001)
            .collect();
        Self {
            scale: Scale::Linear,
            low: 0.0,
            high: most * 1.08,
            ticks,
        }
    }

    fn log(values: &[f64]) -> Self {
        let positive = values.iter().copied().filter(|value| *value > 0.0);
        let (least, most) = positive.fold((f64::MAX, 0.0_f64), |(least, most), value| {
            (least.min(value), most.max(value))
        });
        if most == 0.0 {
            return Self::linear(values);
        }
        let (low, high) = (least.log10() - 0.15, most.log10() + 0.15);
        let between = if high - low < 2.5 {
            &[1.0, 2.0, 5.0][..]
        } else {
            &[1.0]
        };
        let powers = (-12..=15).map(|power: i32| 10_f64.powi(power));
        let ticks = powers
            .flat_map(|power| between.iter().map(move |factor| (factor * power).log10()))
            .filter(|tick| (low..=high).contains(tick))
            .collect();
        Self {
            scale: Scale::Log,
            low,
            high,
            ticks,
        }
    }
}

/// One direction of a plane, with ticks of our own: plotters' would be round heights, not round values.
#[derive(Clone)]
pub struct Side {
    inner: RangedCoordf64,
    ticks: Vec<f64>,
}

impl Side {
    /// From `low` to `high`.
    #[must_use]
    pub fn new((low, high): (f64, f64), ticks: Vec<f64>) -> Self {
        let inner = (low..high).into();
        Self { inner, ticks }
    }
}

impl Ranged for Side {
    type ValueType = f64;
    type FormatOption = DefaultFormatting;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.inner.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _hint: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.inner.range()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_axis_starts_at_zero_and_has_round_ticks() {
        let axis = Axis::new(Scale::Linear, &[12.0, 58_000.0]);
        assert!(axis.low.abs() < f64::EPSILON && axis.high > 58_000.0);
        assert_eq!(
            axis.ticks,
            [0.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0, 50_000.0]
        );
        assert!((axis.height(7.0) - 7.0).abs() < f64::EPSILON);
    }

    #[test]
    fn logarithmic_axis_has_powers_of_ten() {
        let axis = Axis::new(Scale::Log, &[40.0, 60_000.0]);
        let ticks: Vec<_> = axis
            .ticks
            .iter()
            .map(|tick| axis.value(*tick).round())
            .collect();
        assert_eq!(ticks, [100.0, 1000.0, 10_000.0]);
        assert!(axis.height(0.0) <= axis.height(40.0));
        assert!(axis.height(60_000.0) < axis.high);
    }

    #[test]
    fn axis_of_nothing_can_be_drawn() {
        for scale in [Scale::Linear, Scale::Log] {
            let axis = Axis::new(scale, &[]);
            assert!(axis.high > axis.low && !axis.ticks.is_empty(), "{axis:?}");
        }
    }
}
