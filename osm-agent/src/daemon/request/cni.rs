//! Requests of the CNI plugin.

use std::{
    path::{Path, PathBuf},
    sync::mpsc,
};

use tokio::sync::oneshot;

use super::{
    CniAction, CniCommand, Request,
    outcome::{Outcome, Refusal},
    server::{Service, Waiting, fitting, stopping, wrong},
    who::Who,
};
use crate::{
    daemon::source::Event,
    pod::Netns,
    protocol::{
        self, VERSION,
        cni::{self, Answer, Readiness, Response, Verb},
    },
};

pub(super) struct Cni {
    events: mpsc::Sender<Event>,
}

impl Cni {
    pub const fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events }
    }
}

impl Service for Cni {
    /// Root outside of pods. Root in a pod is user 0 as well, where it has no user namespace.
    fn may(&self, who: &Who) -> Result<(), Refusal> {
        if who.uid == 0 && who.is_on_the_node() {
            return Ok(());
        }
        let text = format!(
            "only the container runtime may ask here: root, in the node's network namespace; \
             this is user {}",
            who.uid
        );
        Err(Refusal::new(Outcome::Forbidden, text))
    }

    fn begin(&self, who: &Who, line: &[u8]) -> Result<Waiting, Refusal> {
        let request: cni::Request = protocol::parse(line).map_err(|error| wrong(&error))?;
        let action = match request.command {
            Verb::Add => CniAction::Add,
            Verb::Del => CniAction::Del,
            Verb::Check => CniAction::Check,
            Verb::Status => return Ok(Box::pin(async { Some(ready()) })),
        };
        let netns = open(who, request.netns.as_deref());
        let command = CniCommand {
            action,
            pod: request.pod,
            container: request.container,
            netns_path: request.netns,
            netns,
            interface: request.interface,
        };
        let (answer, waiting) = oneshot::channel();
        let request = Event::Request(Request::Cni {
            command: Box::new(command),
            answer,
        });
        self.events.send(request).map_err(|_| stopping())?;
        Ok(Box::pin(async { waiting.await.ok().map(response) }))
    }

    fn refusal(&self, refusal: &Refusal) -> Vec<u8> {
        let text = refusal.text.clone();
        response(match refusal.outcome {
            Outcome::Forbidden | Outcome::Garbage | Outcome::TooLong => Answer::Refused(text),
            _ => Answer::Retry(text),
        })
    }
}

/// The path is one of the runtime's mounts, so it is followed from there; it has no symbolic
/// links, which would lead back to the agent's own.
fn open(who: &Who, path: Option<&Path>) -> Result<Netns, String> {
    let path = path.ok_or("the runtime names no network namespace")?;
    let below = path.strip_prefix("/").map_err(|_| {
        format!(
            "the network namespace {} is no absolute path",
            path.display()
        )
    })?;
    let path = PathBuf::from(format!("/proc/{}/root", who.pid)).join(below);
    let opened = Netns::open(&path).map_err(|error| error.to_string());
    who.check_alive().map_err(|refusal| refusal.text)?;
    opened
}

fn ready() -> Vec<u8> {
    protocol::line(&Readiness {
        version: VERSION,
        ready: true,
    })
}

fn response(answer: Answer) -> Vec<u8> {
    let answer = match answer {
        Answer::Intercepted(means) => Answer::Intercepted(means),
        Answer::Outside(why) => Answer::Outside(fitting(&why)),
        Answer::Refused(why) => Answer::Refused(fitting(&why)),
        Answer::Retry(why) => Answer::Retry(fitting(&why)),
    };
    let response = Response {
        version: VERSION,
        answer,
    };
    protocol::line(&response)
}
