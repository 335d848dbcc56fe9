//! Requests of init containers.

use std::{path::PathBuf, sync::mpsc};

use tokio::sync::oneshot;

use super::{
    Peer, Request,
    outcome::{Outcome, Refusal},
    server::{Service, Waiting, fitting, stopping, wrong},
    who::{Who, identity},
};
use crate::{
    daemon::source::Event,
    pod::Netns,
    protocol::{self, Answer, Response, VERSION},
};

pub(super) struct Enrol {
    events: mpsc::Sender<Event>,
}

impl Enrol {
    pub const fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events }
    }
}

impl Service for Enrol {
    /// Everybody may ask, for their own pod.
    fn may(&self, _: &Who) -> Result<(), Refusal> {
        Ok(())
    }

    fn begin(&self, who: &Who, line: &[u8]) -> Result<Waiting, Refusal> {
        let _: protocol::Request = protocol::parse(line).map_err(|error| wrong(&error))?;
        let peer = peer(who)?;
        let (answer, waiting) = oneshot::channel();
        let request = Event::Request(Request::Enrol { peer, answer });
        self.events.send(request).map_err(|_| stopping())?;
        Ok(Box::pin(async { waiting.await.ok().map(response) }))
    }

    fn refusal(&self, refusal: &Refusal) -> Vec<u8> {
        response(Answer::Refused(refusal.text.clone()))
    }
}

/// Opens the pod of a process, which must not have moved since it was let in.
fn peer(who: &Who) -> Result<Peer, Refusal> {
    let path = PathBuf::from(format!("/proc/{}/ns/net", who.pid));
    let opened = Netns::open(&path);
    who.check_alive()?;
    let netns = opened.map_err(|error| Refusal::new(Outcome::NoPod, error.to_string()))?;
    if identity(&path).ok() != Some(who.netns) || !is_same(&netns, who) {
        let text = "this process went to another network namespace in between";
        return Err(Refusal::new(Outcome::NoPod, text));
    }
    Ok(Peer {
        pid: who.pid,
        netns,
        cgroup: who.cgroup.clone(),
    })
}

fn is_same(netns: &Netns, who: &Who) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = netns.file().metadata();
    metadata.is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == who.netns)
}

fn response(answer: Answer) -> Vec<u8> {
    let answer = match answer {
        Answer::Refused(why) => Answer::Refused(fitting(&why)),
        answer @ Answer::Mode(_) => answer,
    };
    let response = Response {
        version: VERSION,
        answer,
    };
    protocol::line(&response)
}
