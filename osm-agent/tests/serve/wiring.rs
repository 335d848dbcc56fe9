//! How the process ends when it can't start or go on.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    time::Duration,
};

use osm_agent::{
    daemon::{
        run::{self, Options, Source, Wires},
        source::Event,
    },
    error::{Error, Result},
    iptables::Iptables,
};

#[test]
fn loop_that_fails_ends_the_agent_with_its_error() {
    let ended = run(None, |_| || Err(Error::input("pod", "is odd", "look")));
    assert_eq!(words(ended), "pod: is odd; look");
}

#[test]
fn loop_that_panics_ends_the_agent_with_what_it_said() {
    let ended = run(None, |_| || panic!("no such map: {}", 7));
    let words = words(ended);
    assert!(words.contains("panicked: no such map: 7"), "{words}");
}

#[test]
fn loop_that_ends_by_itself_is_an_error() {
    let ended = run(None, |_| || Ok(()));
    let words = words(ended);
    assert!(words.contains("ended by itself"), "{words}");
}

#[test]
fn state_that_cannot_be_opened_is_told_before_a_port_that_is_taken() {
    let (_taken, address) = taken();
    let ended = run::run_with(&options(Some(address)), |_, _| {
        Err::<fn() -> Result<()>, _>(Error::input("state", "is in use", "wait"))
    });
    assert_eq!(words(ended), "state: is in use; wait");
}

#[test]
fn port_that_is_taken_is_told_with_the_flag_to_change_it() {
    let (_taken, address) = taken();
    let ended = run(Some(address), |wires| {
        move || match wires.events.recv() {
            Ok(Event::Stop) => Ok(()),
            // As it goes when the agent ends before the loop starts.
            event => panic!("{event:?}"),
        }
    });
    let error = ended.expect_err("it can't listen");
    assert_eq!(error.exit_code(), 1);
    let words = error.to_string();
    assert!(words.contains(&address.to_string()), "{words}");
    assert!(words.contains("--listen"), "{words}");
}

fn run<L>(listen: Option<SocketAddr>, control: impl FnOnce(Wires) -> L) -> Result<()>
where
    L: FnOnce() -> Result<()> + Send + 'static,
{
    run::run_with(&options(listen), |_, wires| Ok(control(wires)))
}

fn options(listen: Option<SocketAddr>) -> Options {
    Options {
        state_dir: "/nonexistent".into(),
        source: Source::Requests { config: None },
        agent_socket: None,
        cni_socket: None,
        resync: Duration::from_secs(30),
        listen,
        dual_stack: false,
        cgroup_root: None,
        shared_cgroup: None,
        iptables: Iptables::new(),
    }
}

fn taken() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

#[track_caller]
fn words(ended: Result<()>) -> String {
    ended.expect_err("it ended well").to_string()
}
