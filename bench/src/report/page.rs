//! The page that this run's tables and plots are put into.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use super::table::{Look, tables};
use super::{Parameters, Report};

/// What is between these is made by the benchmark.
const BEGIN: &str = "<!-- bench:begin -->";
const END: &str = "<!-- bench:end -->";

/// Puts tables and plots into `page`, between its two markers, and the plots of `directory` beside it.
///
/// # Errors
/// Where the page has no markers, or a file can't be read or written.
pub fn update(report: &Report, page: &Path, directory: &Path, plots: &[String]) -> Result<()> {
    let shown = page.display();
    let text = fs::read_to_string(page).with_context(|| format!("reading {shown}"))?;
    let beside = page.with_extension("");
    fs::create_dir_all(&beside).with_context(|| format!("making {}", beside.display()))?;
    let mut generated = about(report);
    for plot in plots {
        let file = format!("{plot}.svg");
        fs::copy(directory.join(&file), beside.join(&file))
            .with_context(|| format!("copying {file} to {}", beside.display()))?;
        let place = beside
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        generated.extend(["![", plot, "](", &place, "/", &file, ")\n\n"]);
    }
    generated += &tables(report, Look::Markdown);
    let text = replaced(&text, &generated)
        .with_context(|| format!("{shown} has no {BEGIN} with an {END} behind"))?;
    fs::write(page, text).with_context(|| format!("writing {shown}"))
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
    let kind = if quick { "`--quick`" } else { "full" };
    let place = if machine.is_virtual {
        "virtual machine"
    } else {
        "machine"
    };
    format!(
        "{}, {kind} run of {:.0} minutes, seed {seed}. {}, {} cores, {} GiB, {place}. Linux {}, load {:.1} \
         before.\n\n",
        machine.date,
        seconds / 60.0,
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
