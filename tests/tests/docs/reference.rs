//! The parts of `docs/configuration.md` that are made from the types: `cargo xtask docs` writes
//! them, and here they are compared.

use std::{
    ffi::OsStr, fmt::Write as _, fs, os::unix::ffi::OsStrExt as _, process::Command as Process,
};

use clap::{Arg, ArgAction, Command, CommandFactory as _};
use osm_agent::{
    cli::Cli,
    config::{FIELDS, Field, MeshConfig},
};
use osm_tests::{Need, agent, missing};

use crate::page;

const PAGE: &str = "docs/configuration.md";

/// Set by `cargo xtask docs`: the page is written.
const WRITE: &str = "OSM_DOCS_WRITE";

/// What a part is made of.
type Make = fn() -> String;

/// The parts, by the names in their markers.
const PARTS: [(&str, Make); 5] = [
    ("fields", fields),
    ("annotations", annotations),
    ("run", || flags("run")),
    ("init", || flags("init")),
    ("attach", || flags("attach")),
];

#[test]
fn reference_is_what_the_types_say() {
    let path = page::root().join(PAGE);
    let found = fs::read_to_string(&path).expect("the reference");
    let mut made = found.clone();
    for (name, make) in PARTS {
        made = replaced(&made, name, &make());
    }
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, made).expect("the reference can be written");
        return;
    }
    let differs = found
        .lines()
        .zip(made.lines())
        .find(|(found, made)| found != made);
    assert!(
        found == made,
        "{PAGE} is stale, cargo xtask docs writes it: {differs:?}"
    );
}

fn replaced(text: &str, name: &str, part: &str) -> String {
    let (begin, end) = (
        format!("<!-- {name}:begin -->\n"),
        format!("<!-- {name}:end -->"),
    );
    let (before, rest) = text.split_once(&begin).expect("a marker");
    let (_, after) = rest.split_once(&end).expect("a marker at the end");
    format!("{before}{begin}\n{part}\n{end}{after}")
}

/// The rows of a table.
fn table(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut text = format!("| {} |\n|{}\n", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let cells: Vec<_> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text
}

fn fields() -> String {
    let row = |field: &Field| {
        vec![
            format!("`{}`", field.path),
            field.takes.to_owned(),
            format!("`{}`", field.default),
            field.about.to_owned(),
        ]
    };
    table(
        &["field", "takes", "default", "meaning"],
        FIELDS.iter().map(row),
    )
}

fn annotations() -> String {
    let row = |field: &Field| {
        let key = field.annotation?;
        Some(vec![format!("`{key}`"), format!("`{}`", field.path)])
    };
    table(&["annotation", "adds to"], FIELDS.iter().filter_map(row))
}

/// The flags of a command, under the headings of its help.
fn flags(name: &str) -> String {
    let mut command = Cli::command();
    command.build();
    let command = command.find_subcommand(name).expect("a command");
    let mut headings: Vec<Option<&str>> = Vec::new();
    for arg in shown(command) {
        if !headings.contains(&arg.get_help_heading()) {
            headings.push(arg.get_help_heading());
        }
    }
    let part = |heading: Option<&str>| {
        let of_it = shown(command).filter(|arg| arg.get_help_heading() == heading);
        let rows = of_it.map(|arg| {
            let variable = variable(name, arg).map(|it| format!("`{it}`"));
            vec![flag(arg), variable.unwrap_or_default(), meaning(arg)]
        });
        let title = heading.map_or(String::new(), |title| format!("{title}:\n\n"));
        title + &table(&["flag", "variable", "meaning"], rows)
    };
    headings
        .into_iter()
        .map(part)
        .collect::<Vec<_>>()
        .join("\n")
}

fn shown(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|arg| {
        !arg.is_hide_set()
            && !matches!(
                arg.get_action(),
                ArgAction::Help | ArgAction::HelpLong | ArgAction::HelpShort
            )
    })
}

fn flag(arg: &Arg) -> String {
    let long = arg.get_long().expect("all have long names");
    let takes_value = arg.get_num_args().is_some_and(|it| it.takes_values());
    let value = arg.get_value_names().and_then(|names| names.first());
    match value.filter(|_| takes_value) {
        Some(value) => format!("`--{long} {value}`"),
        None => format!("`--{long}`"),
    }
}

/// The variable of a flag. Those of `init` are named after the flags, and not known to the parser,
/// as an empty one has to count as none.
fn variable(command: &str, arg: &Arg) -> Option<String> {
    match command {
        "init" => {
            let long = arg.get_long()?.replace('-', "_");
            Some(format!("OSM_{}", long.to_ascii_uppercase()))
        }
        _ => arg
            .get_env()
            .map(|name| name.to_string_lossy().into_owned()),
    }
}

fn meaning(arg: &Arg) -> String {
    let mut text = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let values = arg.get_possible_values();
    let value = |it: &clap::builder::PossibleValue| {
        let about = it.get_help().map(|about| format!(" ({about})"));
        format!("`{}`{}", it.get_name(), about.unwrap_or_default())
    };
    let takes_value = arg.get_num_args().is_some_and(|it| it.takes_values());
    if takes_value && !values.is_empty() {
        let values: Vec<_> = values.iter().map(value).collect();
        let _ = write!(text, ": {}", values.join(", "));
    }
    let defaults: Vec<_> = arg
        .get_default_values()
        .iter()
        .map(|it| it.to_string_lossy())
        .collect();
    if takes_value && !defaults.is_empty() {
        let _ = write!(text, " [default: {}]", defaults.join(", "));
    }
    text
}

/// What is in the table is what the parser reads: with a value of another kind it fails, and says
/// what the table says.
#[test]
fn parser_knows_every_field_as_it_is_described() {
    for field in FIELDS {
        let (parents, name) = field.path.rsplit_once('.').expect("a path");
        let parent = parents.rsplit('.').next().expect("a parent");
        let text = |value: &str| {
            format!(
                "apiVersion: config.openservicemesh.io/v1alpha2\nkind: MeshConfig\n\
                 spec: {{ {parent}: {{ {name}: {value} }} }}\n"
            )
        };
        let error = MeshConfig::parse(&text("{ a: b }"), "x").expect_err("a mapping is wrong");
        let error = error.to_string();
        let expected = format!("; expected {}", field.takes);
        assert!(
            error.starts_with(&format!("x: {} is ", field.path)),
            "{error}"
        );
        assert!(error.ends_with(&expected), "{error}");
        let default = MeshConfig::parse(&text(field.default), "x").expect("the default is right");
        assert_eq!(default, MeshConfig::default(), "{}", field.path);
    }
}

/// A value that is no text is refused, with the variable's name, by whoever reads it.
#[test]
fn init_reads_every_variable_of_the_reference() {
    if missing(&[Need::Agent]) {
        return;
    }
    let mut command = Cli::command();
    command.build();
    let command = command.find_subcommand("init").expect("a command");
    for arg in shown(command) {
        let variable = variable("init", arg).expect("all have one");
        let output = Process::new(agent::binary().expect("the agent"))
            .arg("init")
            .env_clear()
            .env(&variable, OsStr::from_bytes(b"\xff"))
            .output()
            .expect("it runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{variable}: {error}");
        assert!(
            error.contains(&format!("{variable}: is not UTF-8")),
            "{error}"
        );
    }
}
