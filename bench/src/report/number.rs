//! Numbers as people read them.

/// Three or four figures that matter, with thousands apart.
#[must_use]
pub fn short(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    apart(&format!("{value:.decimals$}"))
}

/// A count, with thousands apart.
#[must_use]
pub fn count(value: u32) -> String {
    apart(&value.to_string())
}

/// A number with its thousands apart.
fn apart(text: &str) -> String {
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut apart = String::new();
    for (index, digit) in whole.chars().enumerate() {
        let left = whole.len() - index;
        if index > 0 && left.is_multiple_of(3) && !apart.ends_with('-') {
            apart.push(',');
        }
        apart.push(digit);
    }
    apart + rest
}

/// The same in few characters, for plots: thousands are `k`, millions `M`.
#[must_use]
pub fn compact(value: f64) -> String {
    match value.abs() {
        size if size >= 1e6 => format!("{:.1}M", value / 1e6),
        size if size >= 1e4 => format!("{:.0}k", value / 1e3),
        size if size >= 1e3 => format!("{:.1}k", value / 1e3),
        _ => short(value),
    }
}

/// A ratio, with two decimals.
#[must_use]
pub fn ratio(value: f64) -> String {
    if value.abs() < 0.1 {
        format!("{value:.3}")
    } else {
        format!("{value:.2}")
    }
}

/// A share as a percentage.
#[must_use]
pub fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_thousands_apart() {
        let cases = [
            (1_234_567.8, "1,234,568"),
            (123_456.0, "123,456"),
            (1234.0, "1,234"),
            (999.6, "1,000"),
            (123.4, "123"),
            (12.34, "12.3"),
            (1.234, "1.23"),
            (0.1234, "0.123"),
            (0.0, "0"),
            (-1234.0, "-1,234"),
            (-123.0, "-123"),
        ];
        for (value, expected) in cases {
            assert_eq!(short(value), expected);
        }
        let cases = [
            (1_234_567.8, "1.2M"),
            (216_624.0, "217k"),
            (4648.0, "4.6k"),
            (28.6, "28.6"),
        ];
        for (value, expected) in cases {
            assert_eq!(compact(value), expected);
        }
        assert_eq!([count(7), count(10), count(60_000)], ["7", "10", "60,000"]);
        assert_eq!(ratio(0.923), "0.92");
        assert_eq!(ratio(0.0123), "0.012");
        assert_eq!(percent(0.034), "3%");
    }
}
