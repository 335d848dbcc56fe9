//! How the node agent ends when it is told to. One test, as a signal is for the whole process.

use std::{
    sync::mpsc::{self, Receiver},
    thread,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use osm_agent::{
    daemon::{
        run::{Options, Source, run_with},
        source::Event,
    },
    error::Result,
    iptables::Iptables,
};

const HANG: Duration = Duration::from_secs(30);

#[test]
fn first_signal_stops_the_loop_and_second_one_ends_at_once() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let (news, ended) = start(true);
        expect(&news, "started");
        send(signal);
        expect(&news, "told to stop");
        assert!(ended.recv_timeout(HANG).expect("it ends").is_ok());
    }

    let (news, ended) = start(false);
    expect(&news, "started");
    send(Signal::SIGTERM);
    expect(&news, "told to stop");
    assert!(ended.try_recv().is_err(), "it does not wait for the loop");
    send(Signal::SIGINT);
    let error = ended.recv_timeout(HANG).expect("it ends");
    let words = error.expect_err("the loop was not over").to_string();
    assert!(
        words.contains("SIGINT came while it was stopping"),
        "{words}"
    );
}

/// Starts an agent whose loop obeys, or does not; its news, and how it ended.
fn start(obeys: bool) -> (Receiver<&'static str>, Receiver<Result<()>>) {
    let (say, news) = mpsc::channel();
    let (end, ended) = mpsc::channel();
    thread::spawn(move || {
        let result = run_with(&options(), |_, wires| {
            Ok(move || {
                say.send("started").expect("the test waits");
                // What the sources say comes when it comes.
                let mut events = wires.events.iter();
                let is_told = events.any(|event| matches!(event, Event::Stop));
                assert!(is_told, "everybody who could tell it is gone");
                say.send("told to stop").expect("the test waits");
                if !obeys {
                    thread::sleep(Duration::MAX);
                }
                Ok(())
            })
        });
        let _ = end.send(result);
    });
    (news, ended)
}

fn options() -> Options {
    Options {
        state_dir: "/nonexistent".into(),
        source: Source::Requests { config: None },
        agent_socket: None,
        cni_socket: None,
        resync: Duration::from_secs(30),
        listen: None,
        dual_stack: false,
        cgroup_root: None,
        shared_cgroup: None,
        iptables: Iptables::new(),
    }
}

#[track_caller]
fn expect(news: &Receiver<&'static str>, what: &str) {
    assert_eq!(news.recv_timeout(HANG), Ok(what));
}

fn send(signal: Signal) {
    kill(Pid::this(), signal).expect("a signal to this process");
}
