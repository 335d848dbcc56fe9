//! The report as people read it: what was tried, what the machine is like, who else is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
};

use crate::{
    check::{Attached, Feature, Order, Owner, Report, Status},
    cli::{
        out::plain,
        style::{bad, columns, heading},
    },
};

/// Everything, with what follows from it last.
pub fn table(report: &Report) -> String {
    let mut text = String::new();
    features(&report.features, &mut text);
    let header = ["SYSTEM", "WHAT IT IS"].map(String::from).to_vec();
    let facts = report.system.iter().map(|fact| {
        let note = fact.note.as_ref().map(|note| format!("\n→ {note}"));
        let value = plain(&fact.value) + &note.unwrap_or_default();
        vec![fact.name.to_owned(), value]
    });
    section([header].into_iter().chain(facts).collect(), &mut text);
    match &report.attached {
        Ok(attached) => programs(attached, &mut text),
        // Writing to a string does not fail.
        Err(why) => drop(writeln!(
            text,
            "\nPrograms of others: unknown: {}",
            plain(why)
        )),
    }
    let _ = writeln!(text, "\nmode auto takes: {}", report.mode.name());
    let _ = writeln!(text, "{}.", report.reason);
    text
}

fn features(features: &[Feature], text: &mut String) {
    let width = features.iter().map(|it| it.name.len()).max();
    let width = width.unwrap_or_default().max("FEATURE".len());
    let line = |name: &str, status: &str, detail: &str| {
        let line = format!("{name:width$}  {status:7}  {detail}");
        line.trim_end().to_owned()
    };
    let _ = writeln!(text, "{}", heading(&line("FEATURE", "STATUS", "DETAIL")));
    for feature in features {
        let shown = line(&feature.name, feature.status.name(), &feature.detail);
        let shown = match feature.status {
            Status::Missing => bad(&shown),
            Status::Ok | Status::Unknown => shown,
        };
        let _ = writeln!(text, "{shown}");
    }
}

/// Those of others, each once for each place and order.
fn programs(attached: &[Attached], text: &mut String) {
    type Same<'a> = (&'a str, u32, &'a str, Option<Order>);
    let mut pods_of: BTreeMap<Same<'_>, (&Attached, BTreeSet<&str>)> = BTreeMap::new();
    for it in attached.iter().filter(|it| it.owner != Owner::Ours) {
        let same = (it.hook, it.id, it.at.as_str(), it.order);
        let (_, pods) = pods_of.entry(same).or_insert((it, BTreeSet::new()));
        pods.extend(it.pod.as_deref());
    }
    // What runs for pods of ours runs for every other cgroup there as well.
    let known: BTreeSet<_> = pods_of
        .iter()
        .filter(|(_, (_, pods))| !pods.is_empty())
        .map(|((hook, id, ..), _)| (*hook, *id))
        .collect();
    pods_of.retain(|(hook, id, ..), (_, pods)| !pods.is_empty() || !known.contains(&(*hook, *id)));
    if pods_of.is_empty() {
        let _ = writeln!(
            text,
            "\nNo programs of others run for pods at the hooks of ours."
        );
        return;
    }
    let header = ["PROGRAM OF OTHERS", "HOOK", "WHERE, AND WHEN"];
    let rows = pods_of.values().map(|(it, pods)| {
        let owner = if it.owner == Owner::Cilium {
            ", Cilium's"
        } else {
            ""
        };
        let when = match it.order {
            Some(Order::BeforeOurs) => "before ours: ours sees what it made of the call",
            Some(Order::AfterOurs) => "after ours: it sees the redirected call",
            None => "beside none of ours",
        };
        let pods = match pods.iter().collect::<Vec<_>>()[..] {
            [] => String::new(),
            [only] => format!(", for {only}"),
            ref many => format!(", for {} pods", many.len()),
        };
        let name = if it.name.is_empty() {
            "(no name)"
        } else {
            &it.name
        };
        vec![
            format!("{} ({}, id {}{owner})", plain(name), it.kind, it.id),
            it.hook.to_owned(),
            format!("{}, {when}{pods}", it.at),
        ]
    });
    let header = header.map(String::from).to_vec();
    section([header].into_iter().chain(rows).collect(), text);
}

fn section(rows: Vec<Vec<String>>, text: &mut String) {
    text.push('\n');
    for (index, line) in columns(rows, &[]).into_iter().enumerate() {
        let line = if index == 0 { heading(&line) } else { line };
        let _ = writeln!(text, "{line}");
    }
}
