//! Figures: the samples of one measurement, setting and variant, put together.

use crate::sample::{Better, Sample, Variant};
use crate::stats::{Summary, ratios};

/// One figure.
#[derive(Clone, Debug)]
pub struct Figure {
    /// What was measured.
    pub measurement: String,
    /// The setting it was measured at.
    pub setting: String,
    /// How the traffic went, or what did the work.
    pub variant: Variant,
    /// The unit of the samples.
    pub unit: String,
    /// Which way is better.
    pub better: Better,
    /// Of the samples.
    pub summary: Summary,
    /// Of the ratios to direct, round by round; none for direct itself.
    pub to_direct: Option<Summary>,
    /// Of the ratios to iptables-legacy, round by round; none for that itself.
    pub to_legacy: Option<Summary>,
    /// Of the ratios to the same without lists, where the setting is a length of lists.
    pub to_empty: Option<Summary>,
}

/// The figures of all samples, in the order in which the first of each came; variants in theirs.
#[must_use]
pub fn figures(samples: &[Sample]) -> Vec<Figure> {
    let groups = groups(samples);
    let mut figures: Vec<Figure> = groups.iter().filter_map(|it| figure(it, &groups)).collect();
    let place = |of: &Figure| {
        let is_same = |it: &Group<'_>| it.first.measurement == of.measurement;
        let measurement = groups.iter().position(is_same);
        let setting = groups
            .iter()
            .position(|it| is_same(it) && it.first.setting == of.setting);
        (measurement, setting, of.variant)
    };
    figures.sort_by_key(place);
    figures
}

/// The samples that make one figure.
struct Group<'a> {
    first: &'a Sample,
    values: Vec<f64>,
}

fn groups(samples: &[Sample]) -> Vec<Group<'_>> {
    let mut groups: Vec<Group<'_>> = Vec::new();
    for sample in samples {
        let found = groups.iter_mut().find(|group| {
            let first = group.first;
            (&first.measurement, &first.setting, first.variant)
                == (&sample.measurement, &sample.setting, sample.variant)
        });
        match found {
            Some(group) => group.values.push(sample.value),
            None => groups.push(Group {
                first: sample,
                values: vec![sample.value],
            }),
        }
    }
    groups
}

fn figure(group: &Group<'_>, groups: &[Group<'_>]) -> Option<Figure> {
    let first = group.first;
    let to = |setting: &str, variant: Variant| {
        let base = groups.iter().find(|other| {
            let other = other.first;
            other.measurement == first.measurement
                && other.setting == setting
                && other.variant == variant
        })?;
        let is_itself = std::ptr::eq(base, group);
        (!is_itself)
            .then(|| ratios(&group.values, &base.values))
            .flatten()
    };
    Some(Figure {
        measurement: first.measurement.clone(),
        setting: first.setting.clone(),
        variant: first.variant,
        unit: first.unit.clone(),
        better: first.better,
        summary: Summary::of(&group.values)?,
        to_direct: to(&first.setting, Variant::Direct),
        to_legacy: to(&first.setting, Variant::IptablesLegacy),
        to_empty: length(&first.setting)
            .and_then(|(what, _)| to(&format!("{what}=0"), first.variant)),
    })
}

/// What a setting is a length of, and the length: `ranges=1000`.
#[must_use]
pub fn length(setting: &str) -> Option<(&str, u32)> {
    let (what, length) = setting.split_once('=')?;
    Some((what, length.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(setting: &str, variant: Variant, value: f64) -> Sample {
        Sample {
            measurement: "connections".into(),
            setting: setting.into(),
            variant,
            unit: "1/s".into(),
            value,
            better: Better::Higher,
        }
    }

    fn median(summary: Option<Summary>) -> Option<f64> {
        summary.map(|it| it.median)
    }

    #[test]
    fn figures_are_of_one_setting_and_compare_round_by_round() {
        let rounds = [1.0, 2.0, 3.0];
        let samples: Vec<_> = rounds
            .iter()
            .flat_map(|speed| {
                [
                    sample("ranges=0", Variant::Ebpf, 90.0 * speed),
                    sample("ranges=0", Variant::Direct, 100.0 * speed),
                    sample("ranges=10", Variant::Ebpf, 45.0 * speed),
                    sample("ranges=10", Variant::IptablesLegacy, 30.0 * speed),
                ]
            })
            .collect();
        let figures = figures(&samples);
        let shown: Vec<_> = figures
            .iter()
            .map(|it| (it.setting.as_str(), it.variant, it.summary.median))
            .collect();
        let expected = [
            ("ranges=0", Variant::Direct, 200.0),
            ("ranges=0", Variant::Ebpf, 180.0),
            ("ranges=10", Variant::Ebpf, 90.0),
            ("ranges=10", Variant::IptablesLegacy, 60.0),
        ];
        assert_eq!(shown, expected);
        assert_eq!(median(figures[0].to_direct), None);
        assert_eq!(median(figures[1].to_direct), Some(0.9));
        assert_eq!(median(figures[2].to_direct), None);
        assert_eq!(median(figures[2].to_legacy), Some(1.5));
        assert_eq!(median(figures[2].to_empty), Some(0.5));
        assert_eq!(median(figures[1].to_empty), None);
    }

    #[test]
    fn length_is_read_from_settings_that_are_one() {
        assert_eq!(length("ranges=1000"), Some(("ranges", 1000)));
        for other in ["", "1 × 64 B", "ranges=", "ranges=many"] {
            assert_eq!(length(other), None, "{other:?}");
        }
    }
}
