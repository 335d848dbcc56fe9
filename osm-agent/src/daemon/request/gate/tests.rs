use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn gate(connections: usize, of_pod: usize, rate: Rate, rate_of_pod: Rate) -> (Arc<Gate>, Instant) {
    let now = Instant::now();
    let limits = Limits {
        connections,
        connections_of_pod: of_pod,
        rate,
        rate_of_pod,
        ..Limits::ENROL
    };
    (Arc::new(Gate::new(limits, now)), now)
}

const fn rate(burst: u32, per_second: u32) -> Rate {
    Rate { burst, per_second }
}

const MUCH: Rate = rate(100_000, 100_000);

#[track_caller]
fn refused(admitted: Result<Pass, Refusal>) -> Outcome {
    admitted.expect_err("a refusal").outcome
}

#[test]
fn connections_are_given_back() {
    let (gate, now) = gate(3, 2, MUCH, MUCH);
    let (one, other) = (Who::made_up(1, None), Who::made_up(2, None));
    let first = gate.admit(&one, now).expect("room");
    let _second = gate.admit(&one, now).expect("room");
    assert_eq!(refused(gate.admit(&one, now)), Outcome::PodFull);
    let _third = gate.admit(&other, now).expect("room");
    assert_eq!(refused(gate.admit(&other, now)), Outcome::Full);
    drop(first);
    let _fourth = gate.admit(&one, now).expect("room again");
    assert_eq!(refused(gate.admit(&other, now)), Outcome::Full);
}

#[test]
fn pod_s_tokens_come_back_with_time_and_are_its_own() {
    let (gate, now) = gate(64, 64, MUCH, rate(2, 1));
    let (one, other) = (Who::made_up(1, None), Who::made_up(2, None));
    let admit = |who, at| gate.admit(who, at).map(drop).map_err(|it| it.outcome);
    for (who, at, result) in [
        (&one, now, Ok(())),
        (&one, now, Ok(())),
        (&one, now, Err(Outcome::PodFlood)),
        (&other, now, Ok(())),
        (&one, now + SECOND, Ok(())),
        (&one, now + SECOND, Err(Outcome::PodFlood)),
        // No more than the burst is saved up.
        (&one, now + 100 * SECOND, Ok(())),
        (&one, now + 100 * SECOND, Ok(())),
        (&one, now + 100 * SECOND, Err(Outcome::PodFlood)),
    ] {
        assert_eq!(admit(who, at), result, "after {:?}", at - now);
    }
}

#[test]
fn pod_that_floods_spends_nothing_of_the_others() {
    let (gate, now) = gate(64, 64, rate(3, 0), rate(2, 0));
    let (one, other) = (Who::made_up(1, None), Who::made_up(2, None));
    for _ in 0..100 {
        let _ = gate.admit(&one, now);
    }
    assert!(gate.admit(&other, now).is_ok());
    assert_eq!(refused(gate.admit(&other, now)), Outcome::Flood);
}

#[test]
fn namespaces_of_one_cgroup_are_one_pod() {
    let (gate, now) = gate(64, 64, MUCH, rate(2, 0));
    for netns in 0..100_000 {
        let admitted = gate.admit(&Who::made_up(netns, Some("/pod")), now);
        assert_eq!(admitted.is_ok(), netns < 2, "{netns}");
    }
    let state = gate.state.lock().expect("no panic");
    assert!(state.pods.len() <= 3, "{}", state.pods.len());
}

#[test]
fn memory_is_bounded_and_idle_pods_are_forgotten() {
    let (gate, now) = gate(64, 64, MUCH, rate(2, 1));
    for netns in 0..POD_LIMIT as u64 {
        assert!(gate.admit(&Who::made_up(netns, None), now).is_ok());
    }
    let new = Who::made_up(1 << 40, None);
    assert_eq!(refused(gate.admit(&new, now)), Outcome::Flood);
    assert!(
        gate.admit(&Who::made_up(1, None), now).is_ok(),
        "a known one"
    );
    assert!(gate.admit(&new, now + SECOND).is_ok());
    let state = gate.state.lock().expect("no panic");
    assert!(state.pods.len() <= 3, "{}", state.pods.len());
}
