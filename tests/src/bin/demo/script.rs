//! What the demo shows, in its order.

use anyhow::Result;
use osm_tests::Listener::{Inbound, Outbound};

use crate::expectation::Expected::{Direct, Refused, Sidecar};
use crate::expectation::{Expected, Kept, Observed};
use crate::mode::{Lists, Mode};
use crate::scene::{APP, CLIENT, DB, MAIL, METRICS, Scenario, Scene, WEB, Who};
use crate::sidecar::Kind;
use crate::table::Table;
use osm_tests::interrupt::Interrupt;

const NO_LISTS: Lists = Lists {
    traffic: &[],
    annotation: None,
};

const EXCLUSIONS: Lists = Lists {
    traffic: &[
        ("outboundIPRangeExclusionList", "[198.51.100.11/32]"),
        ("inboundPortExclusionList", "[9090]"),
    ],
    annotation: Some(("openservicemesh.io/outbound-port-exclusion-list", "5432")),
};

const INCLUSION: Lists = Lists {
    traffic: &[
        ("outboundIPRangeInclusionList", "[198.51.100.0/24]"),
        ("outboundIPRangeExclusionList", "[198.51.100.11/32]"),
    ],
    annotation: None,
};

/// Shows everything. Did all come out as it should?
///
/// # Errors
/// Where the demo can't go on, or was told to end.
pub fn run(kind: &Kind, mode: Mode, interrupt: &Interrupt) -> Result<bool> {
    let table = Table::new();
    introduce(&table, kind, mode)?;
    interrupt.check()?;
    let mut show = Show {
        scene: Scene::new(kind, mode)?,
        table,
        kind,
        mode,
        interrupt,
    };
    show.table.headings()?;
    show.before_attaching()?;
    let early = show.without_lists()?;
    show.with_exclusions(&early)?;
    show.with_inclusion()?;
    show.sidecar_stopped()?;
    show.sidecar_back()?;
    show.detached()?;
    Ok(show.table.finish(mode)?)
}

fn introduce(table: &Table, kind: &Kind, mode: Mode) -> Result<()> {
    let [web, mail, db] = [WEB, MAIL, DB].map(|it| it.split(':').next().unwrap_or(it));
    for line in [
        "pod      10.77.1.2, with an application (UID 1000) that serves on 8080 and 9090, and",
        &format!("         a sidecar (UID 1500) on 15001 and 15003: {kind}"),
        &format!("outside  web {web}, mail {mail}, db {db}, and a client {CLIENT}"),
        &format!("agent    intercepts the pod's connections by {mode}"),
        "checked  in every row: what the one who dials, the sidecar and the one who answers report",
        "–        the sidecar saw nothing, the connection was direct or refused",
    ] {
        table.say(line)?;
    }
    Ok(())
}

struct Show<'a> {
    scene: Scene,
    table: Table,
    kind: &'a Kind,
    mode: Mode,
    interrupt: &'a Interrupt,
}

impl Show<'_> {
    /// The control: without interception, nothing reaches the sidecar.
    fn before_attaching(&mut self) -> Result<()> {
        self.group("Before attaching; the sidecar runs", &[])?;
        self.row("outbound", Who::App, WEB, Direct("web"))?;
        self.row("inbound", Who::Outside, APP, Direct("app"))
    }

    /// Returns a connection that stays open.
    fn without_lists(&mut self) -> Result<Observed> {
        self.attach("Attached, without lists", &NO_LISTS)?;
        self.row("outbound", Who::App, WEB, Sidecar(Outbound, "web"))?;
        self.row(
            "from an IPv6 socket",
            Who::AppV6,
            WEB,
            Sidecar(Outbound, "web"),
        )?;
        self.row("UID 1500", Who::SidecarUser, WEB, Direct("web"))?;
        self.row("inbound", Who::Outside, APP, Sidecar(Inbound, "app"))?;
        self.row(
            "UID 1500 to its pod",
            Who::SidecarUser,
            APP,
            Sidecar(Inbound, "app"),
        )?;
        self.row("app to its own pod", Who::App, APP, Direct("app"))?;
        self.row(
            "app to localhost",
            Who::App,
            "127.0.0.1:8080",
            Direct("app"),
        )?;
        self.row_kept(
            "outbound, kept open",
            Who::App,
            MAIL,
            Sidecar(Outbound, "mail"),
        )
    }

    fn with_exclusions(&mut self, early: &Observed) -> Result<()> {
        self.attach(
            "The lists change while everything runs: exclusions",
            &EXCLUSIONS,
        )?;
        self.again("the one kept open", MAIL, "mail", early, Kept::Intercepted)?;
        self.scene.close(Who::App, early);
        self.row("excluded range", Who::App, MAIL, Direct("mail"))?;
        self.row("excluded port", Who::App, DB, Direct("db"))?;
        self.row("excl. inbound port", Who::Outside, METRICS, Direct("app"))?;
        self.row(
            "any other, outbound",
            Who::App,
            WEB,
            Sidecar(Outbound, "web"),
        )?;
        self.row(
            "any other, inbound",
            Who::Outside,
            APP,
            Sidecar(Inbound, "app"),
        )
    }

    fn with_inclusion(&mut self) -> Result<()> {
        self.attach("They change again: an inclusion list", &INCLUSION)?;
        self.row("in the list", Who::App, WEB, Sidecar(Outbound, "web"))?;
        self.row("not in the list", Who::App, DB, Direct("db"))?;
        self.row("in it, but excluded", Who::App, MAIL, Direct("mail"))
    }

    /// Nothing gets around a sidecar that does not listen.
    fn sidecar_stopped(&mut self) -> Result<()> {
        self.scene.stop_sidecar();
        self.attach("Without lists again, and the sidecar is stopped", &NO_LISTS)?;
        self.row("outbound", Who::App, WEB, Refused("web"))?;
        self.row("inbound", Who::Outside, APP, Refused("app"))
    }

    /// Its new listeners are noticed.
    fn sidecar_back(&mut self) -> Result<()> {
        self.scene.start_sidecar(self.kind)?;
        self.group("The sidecar is started again", &[])?;
        self.row("outbound", Who::App, WEB, Sidecar(Outbound, "web"))?;
        self.row("inbound", Who::Outside, APP, Sidecar(Inbound, "app"))
    }

    fn detached(&mut self) -> Result<()> {
        let late = self.row_kept("outbound, kept open", Who::App, DB, Sidecar(Outbound, "db"))?;
        let traces = self.scene.traces()?;
        let said = self.scene.detach()?;
        self.group("Detached", &[detail("agent", &said)])?;
        self.again("the one kept open", DB, "db", &late, self.mode.kept_open())?;
        self.scene.close(Who::App, &late);
        self.row("outbound", Who::App, WEB, Direct("web"))?;
        self.row("inbound", Who::Outside, APP, Direct("app"))?;
        let left = self.scene.left(&traces)?;
        let [first, rest] = &left.counts;
        self.table
            .row(["left in the kernel", first, rest, ""], &left.problems)?;
        Ok(())
    }

    fn group(&self, title: &str, details: &[String]) -> Result<()> {
        self.interrupt.check()?;
        Ok(self.table.group(title, details)?)
    }

    /// Attaches, or changes the lists of the pod that is attached.
    fn attach(&self, title: &str, lists: &Lists) -> Result<()> {
        self.interrupt.check()?;
        let said = self.scene.attach(lists)?;
        let details = [vec![detail("agent", &said)], details(lists)].concat();
        self.group(title, &details)
    }

    fn row(
        &mut self,
        name: &'static str,
        who: Who,
        to: &'static str,
        expected: Expected,
    ) -> Result<()> {
        let observed = self.row_kept(name, who, to, expected)?;
        self.scene.close(who, &observed);
        Ok(())
    }

    /// A row whose connection stays open.
    fn row_kept(
        &mut self,
        name: &'static str,
        who: Who,
        to: &'static str,
        expected: Expected,
    ) -> Result<Observed> {
        self.interrupt.check()?;
        let scenario = Scenario {
            name,
            who,
            to,
            expected,
        };
        let observed = self.scene.dial(&scenario)?;
        let seen: Vec<_> = observed.seen.iter().map(ToString::to_string).collect();
        let seen = if seen.is_empty() {
            "–".to_owned()
        } else {
            seen.join(", ")
        };
        let answer = observed.answer();
        self.table
            .row([name, to, &seen, answer], &observed.problems(expected))?;
        Ok(observed)
    }

    /// A row for a connection that was made before.
    fn again(
        &mut self,
        name: &str,
        to: &str,
        by: &str,
        before: &Observed,
        expected: Kept,
    ) -> Result<()> {
        self.interrupt.check()?;
        let (answer, problems) = match self.scene.use_again(Who::App, before, expected) {
            Ok(()) if expected == Kept::Reset => ("reset", Vec::new()),
            Ok(()) => (by, Vec::new()),
            Err(error) => ("?", vec![format!("{error:#}")]),
        };
        self.table
            .row([name, to, "(as before)", answer], &problems)?;
        Ok(())
    }
}

/// The lists in force, a line for each.
fn details(lists: &Lists) -> Vec<String> {
    let traffic = lists.traffic.iter();
    let traffic = traffic.map(|(field, list)| detail("mesh config", &format!("{field}: {list}")));
    let annotation = lists.annotation.iter();
    let annotation =
        annotation.map(|(key, value)| detail("annotation", &format!("{key}: \"{value}\"")));
    traffic.chain(annotation).collect()
}

fn detail(what: &str, text: &str) -> String {
    format!("{what:11}  {text}")
}
