//! Histories made by hand: a good one, and for each rule one that breaks it.

use chrono::TimeDelta;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn event(from: u64, to: u64, operation: Operation, outcome: Outcome) -> Event {
    Event { invoked: Duration::from_secs(from), ended: Duration::from_secs(to), operation, outcome }
}

fn new(name: &str, parents: &[i64]) -> New {
    New { name: name.to_owned(), task: 1, parents: parents.to_vec(), max_attempts: 3 }
}

fn submit(from: u64, id: i64, parents: &[i64]) -> Event {
    event(from, from + 1, Operation::Submit { jobs: vec![new(&format!("j{id}"), parents)], key: None }, Outcome::Submitted(vec![id]))
}

fn claim(from: u64, client: &str, job: i64, attempt: i32, until: i64) -> Event {
    let offer = Offer { job, attempt, lease_expires_at: at(until) };
    event(from, from + 1, Operation::Claim { client: client.to_owned(), most: 1 }, Outcome::Claimed(vec![offer]))
}

fn report(from: u64, job: i64, attempt: i32, ending: Ending, outcome: Outcome) -> Event {
    event(from, from + 1, Operation::Report { job, attempt, ending }, outcome)
}

/// A heartbeat of a.
fn pulse(from: u64, named: Option<&[(i64, i32)]>, lives: &[(i64, i32)], over: &[(i64, i32)]) -> Event {
    let until = at(from.cast_signed() + 8);
    let leases = lives.iter().map(|(job, attempt)| Lease { job: *job, attempt: *attempt, until, cancel_requested: false }).collect();
    let operation = Operation::Pulse { client: "a".to_owned(), named: named.map(<[_]>::to_vec) };
    event(from, from + 1, operation, Outcome::Beaten { leases, over: over.to_vec() })
}

fn kept(client: &str, status: &str, cpu: i64, from: i64, to: i64) -> Attempt {
    Attempt {
        client: Some(client.to_owned()),
        status: status.to_owned(),
        needs: Room { cpu, accelerators: 0 },
        claimed_at: at(from),
        ended_at: Some(at(to)),
        lease_expires_at: Some(at(to.min(from + 8))),
        reason: None,
        job_status: None,
    }
}

/// What was fetched, without a lease.
fn left(status: &str, from: i64, to: i64) -> Attempt {
    Attempt { client: None, lease_expires_at: None, ..kept("", status, 1, from, to) }
}

fn job(name: &str, status: &str, attempt: i32, failed_attempts: i32, parents: &[i64]) -> Job {
    Job { name: name.to_owned(), task: 1, status: status.to_owned(), attempt, parents: parents.to_vec(), max_attempts: 3, failed_attempts }
}

fn became(status: &str, attempt: i32) -> Outcome {
    Outcome::Became { status: status.to_owned(), attempt }
}

/// Job 1 expires at a's and is completed by b, who completes job 2 then, which waits for it; a comes back too late. Of job 3 nobody heard, and b gives it back
/// and gives it up. Jobs 4 and 5 come together, with a key, again; 4 is cancelled while a has it, 5 before anybody has. Job 6 is fetched, job 7 deleted. Job 10
/// takes a's accelerator, and a sends heartbeats for all that it has.
fn good() -> (Vec<Event>, State) {
    let batch = |from, outcome| {
        event(from, from + 1, Operation::Submit { jobs: vec![new("j4", &[]), new("j5", &[])], key: Some("key".to_owned()) }, outcome)
    };
    let history = vec![
        submit(0, 1, &[]),
        submit(2, 2, &[1]),
        event(4, 5, Operation::Submit { jobs: vec![new("j3", &[])], key: None }, Outcome::Unknown),
        claim(10, "a", 1, 1, 15),
        event(12, 13, Operation::Beat { job: 1, attempt: 1 }, Outcome::Extended { until: at(17), cancel_requested: false }),
        claim(20, "b", 1, 2, 30),
        report(22, 1, 1, Ending::Complete, Outcome::Refused(409)),
        report(23, 1, 2, Ending::Complete, Outcome::Unknown),
        report(24, 1, 2, Ending::Complete, Outcome::Accepted),
        claim(30, "b", 2, 1, 40),
        report(32, 2, 1, Ending::Complete, Outcome::Accepted),
        claim(34, "a", 3, 1, 40),
        report(36, 3, 1, Ending::Release, Outcome::Accepted),
        claim(38, "a", 3, 2, 46),
        report(40, 3, 2, Ending::GiveUp, Outcome::Accepted),
        batch(50, Outcome::Unknown),
        batch(52, Outcome::Submitted(vec![4, 5])),
        event(54, 55, Operation::Cancel { job: 5 }, became("CANCELLED", 0)),
        claim(56, "a", 4, 1, 64),
        event(58, 59, Operation::Cancel { job: 4 }, became("QUEUED", 1)),
        event(60, 61, Operation::Beat { job: 4, attempt: 1 }, Outcome::Extended { until: at(64), cancel_requested: true }),
        report(62, 4, 1, Ending::Fail, Outcome::Accepted),
        submit(70, 6, &[]),
        event(72, 73, Operation::Fetch, Outcome::Fetched(Some(6))),
        event(80, 81, Operation::Done { job: 6 }, Outcome::Accepted),
        submit(82, 7, &[]),
        event(84, 85, Operation::Delete { job: 7 }, Outcome::Accepted),
        submit(86, 8, &[]),
        claim(88, "b", 8, 1, 96),
        report(90, 8, 1, Ending::GiveUp, Outcome::Accepted),
        event(92, 93, Operation::Retry { job: 8 }, became("PENDING", 1)),
        claim(94, "b", 8, 2, 99),
        report(96, 8, 2, Ending::Complete, Outcome::Accepted),
        submit(100, 10, &[]),
        claim(102, "a", 10, 1, 110),
        event(104, 105, Operation::Start { job: 10, attempt: 1 }, Outcome::Extended { until: at(112), cancel_requested: false }),
        pulse(106, None, &[(10, 1)], &[]),
        pulse(108, Some(&[(10, 1), (8, 2)]), &[(10, 1)], &[(8, 2)]),
        report(110, 10, 1, Ending::Complete, Outcome::Accepted),
    ];
    let preempted = Attempt { reason: Some("preempted".to_owned()), ..kept("a", "RELEASED", 1, 34, 37) };
    let cancelled = Attempt { job_status: Some("CANCELLED".to_owned()), ..kept("a", "FAILED", 1, 56, 63) };
    let state = State {
        jobs: BTreeMap::from([
            (1, job("j1", "COMPLETED", 2, 1, &[])),
            (2, job("j2", "COMPLETED", 1, 0, &[1])),
            (3, job("j3", "FAILED", 2, 1, &[])),
            (4, job("j4", "CANCELLED", 1, 0, &[])),
            (5, job("j5", "CANCELLED", 0, 0, &[])),
            (6, job("j6", "COMPLETED", 1, 0, &[])),
            (8, job("j8", "COMPLETED", 2, 0, &[])),
            (10, job("j10", "COMPLETED", 1, 0, &[])),
        ]),
        attempts: BTreeMap::from([
            ((1, 1), kept("a", "EXPIRED", 2, 10, 18)),
            ((1, 2), kept("b", "COMPLETED", 2, 20, 24)),
            ((2, 1), kept("b", "COMPLETED", 1, 30, 33)),
            ((3, 1), preempted),
            ((3, 2), kept("a", "FAILED", 1, 38, 41)),
            ((4, 1), cancelled),
            ((6, 1), left("COMPLETED", 72, 80)),
            ((8, 1), kept("b", "FAILED", 1, 88, 91)),
            ((8, 2), kept("b", "COMPLETED", 1, 94, 97)),
            ((10, 1), Attempt { needs: Room { cpu: 1, accelerators: 1 }, ..kept("a", "COMPLETED", 1, 102, 111) }),
        ]),
        clients: ["a", "b"].map(|client| (client.to_owned(), Room { cpu: 2, accelerators: 1 })).into(),
    };
    (history, state)
}

#[test]
fn nothing_is_said_of_a_good_history() {
    let (history, state) = good();
    assert_eq!(check(&history, &state), [""; 0]);
}

/// The one thing that is wrong after a change of the good history is this, and nothing else is said.
#[track_caller]
fn alone(change: impl FnOnce(&mut Vec<Event>, &mut State), sentence: &str) {
    let (mut history, mut state) = good();
    change(&mut history, &mut state);
    assert_eq!(check(&history, &state), [sentence]);
}

/// The one thing that is wrong after a change of the good history is this; what else follows from it may be said too.
#[track_caller]
fn caught(change: impl FnOnce(&mut Vec<Event>, &mut State), sentence: &str) {
    let (mut history, mut state) = good();
    change(&mut history, &mut state);
    let wrong = check(&history, &state);
    assert!(wrong.iter().any(|wrong| wrong == sentence), "expected {sentence:?} among\n{}", wrong.join("\n"));
}

#[test]
fn what_is_lost_is_noticed() {
    caught(|_, state| drop(state.jobs.remove(&2)), "Job 2 is lost: it was submitted, and is not there in the end.");
    caught(|_, state| state.jobs.get_mut(&2).unwrap().parents.clear(), "Job 2 was submitted to wait for {1}, and waits for {}.");
    caught(|_, state| drop(state.attempts.remove(&(1, 1))), "Attempt 1 of job 1 is lost: client a was given it.");
    caught(
        |_, state| state.jobs.get_mut(&3).unwrap().status = "QUEUED".to_owned(),
        "Job 3 is stuck: nobody was given it any more, and it is QUEUED.",
    );
    caught(
        |_, state| state.attempts.get_mut(&(2, 1)).unwrap().status = "EXPIRED".to_owned(),
        "A report of attempt 1 of job 2 was accepted (Complete), and the attempt is EXPIRED in the end.",
    );
    caught(
        |_, state| state.attempts.get_mut(&(1, 1)).unwrap().client = Some("b".to_owned()),
        "Attempt 1 of job 1 was given to client a, and is noted for b.",
    );
}

#[test]
fn what_nobody_asked_for_is_noticed() {
    alone(|history, _| drop(history.remove(2)), "Job 3 (j3) is there, and nobody can have submitted it.");
    caught(|history, _| history[14].outcome = Outcome::Refused(409), "Attempt 2 of job 3 is FAILED, and nobody reported that.");
}

#[test]
fn attempts_that_do_not_increase_are_noticed() {
    caught(|history, _| history.push(claim(21, "c", 1, 2, 30)), "Attempt 2 of job 1 was given out twice: to b and to c.");
    caught(|history, _| history[5] = claim(5, "b", 1, 2, 30), "Attempts of job 1 do not increase: 2 was given to b before 1 to a.");
    caught(|_, state| state.jobs.get_mut(&1).unwrap().attempt = 3, "Job 1 is at attempt 3, and those that are noted are [1, 2].");
}

#[test]
fn a_second_completion_is_noticed() {
    caught(|history, _| history[6].outcome = Outcome::Accepted, "More than one completion of job 1 was accepted: of attempts 1 and 2.");
    caught(|history, _| history.push(claim(40, "a", 2, 2, 50)), "Job 2 was given to a (attempt 2) after its completion had been accepted.");
    caught(|_, state| state.attempts.get_mut(&(1, 1)).unwrap().status = "COMPLETED".to_owned(), "Job 1 has 2 completed attempts.");
}

#[test]
fn a_job_that_is_given_out_before_its_parents_completed_is_noticed() {
    caught(|history, _| history[9] = claim(21, "b", 2, 1, 40), "Job 2 was given to b (attempt 1) before anybody had completed job 1.");
    caught(
        |_, state| state.attempts.get_mut(&(2, 1)).unwrap().claimed_at = at(23),
        "Attempt 1 of job 2 was claimed before job 1, which it waits for, had completed.",
    );
}

#[test]
fn an_overdrawn_client_is_noticed() {
    caught(
        |_, state| state.attempts.get_mut(&(3, 1)).unwrap().claimed_at = at(17),
        "Client a has 2 CPUs and held 3 from 1970-01-01 00:00:17 UTC on, with job 3.",
    );
}

#[test]
fn a_lease_that_is_not_kept_is_noticed() {
    caught(
        |_, state| state.attempts.get_mut(&(1, 1)).unwrap().ended_at = Some(at(16)),
        "Attempt 1 of job 1 was ended at 1970-01-01 00:00:16 UTC, within the lease until 1970-01-01 00:00:17 UTC that a was told of.",
    );
    caught(
        |_, state| state.attempts.get_mut(&(1, 2)).unwrap().claimed_at = at(14),
        "Job 1 was given to b (attempt 2) while attempt 1 was still a's.",
    );
    caught(
        |_, state| state.attempts.get_mut(&(1, 1)).unwrap().status = "RELEASED".to_owned(),
        "Attempt 1 of job 1 was taken from a, who had received it.",
    );
}

#[test]
fn what_is_there_twice_is_noticed() {
    alone(|_, state| drop(state.jobs.insert(9, job("j4", "BLOCKED", 0, 0, &[5]))), "j4 was submitted once, and is there as jobs [4, 9].");
    caught(
        |history, _| history[15].outcome = Outcome::Submitted(vec![5, 4]),
        "What was submitted with one key was answered with jobs [5, 4] and with [4, 5].",
    );
    caught(
        |history, _| {
            let other = Operation::Submit { jobs: vec![new("other", &[])], key: None };
            history.push(event(98, 99, other, Outcome::Submitted(vec![2])));
        },
        "Two were told that job 2 is theirs: j2 and other.",
    );
    alone(
        |history, _| {
            let half = vec![new("j3", &[]), new("half", &[])];
            history[2].operation = Operation::Submit { jobs: half, key: None };
        },
        "Of a batch with j3 only 1 of 2 jobs are there.",
    );
}

#[test]
fn what_stopped_for_no_reason_is_noticed() {
    alone(
        |history, _| {
            if let Operation::Report { ending, .. } = &mut history[14].operation {
                *ending = Ending::Fail;
            }
        },
        "Job 3 FAILED after 1 of 3 attempts.",
    );
    alone(
        |history, state| {
            history.drain(31..33);
            let tried = Job { max_attempts: 1, ..job("j8", "FAILED", 1, 1, &[]) };
            state.jobs.insert(8, tried);
            state.attempts.remove(&(8, 2));
        },
        "Job 8 was to run again, and FAILED without another attempt.",
    );
    alone(
        |history, state| {
            history.push(submit(98, 9, &[1]));
            state.jobs.insert(9, job("j9", "BLOCKED", 0, 0, &[1]));
        },
        "Job 9 is BLOCKED, and nothing that it waits for has stopped.",
    );
    alone(|history, _| history[17].outcome = Outcome::Refused(409), "Job 5 is CANCELLED, and nobody did that since it was to run.");
}

#[test]
fn what_runs_though_it_was_cancelled_is_noticed() {
    alone(
        |history, state| {
            history.push(claim(98, "b", 5, 1, 106));
            history.push(report(99, 5, 1, Ending::Complete, Outcome::Accepted));
            state.jobs.insert(5, job("j5", "COMPLETED", 1, 0, &[]));
            state.attempts.insert((5, 1), kept("b", "COMPLETED", 1, 98, 99));
        },
        "Job 5 was given to b (attempt 1) after it had been cancelled.",
    );
    alone(
        |history, _| history[20].outcome = Outcome::Extended { until: at(64), cancel_requested: false },
        "Attempt 1 of job 4 was not told that the job had been cancelled.",
    );
    caught(|_, state| state.jobs.get_mut(&5).unwrap().status = "PENDING".to_owned(), "Job 5 was cancelled, and is PENDING in the end.");
}

#[test]
fn what_is_there_though_it_was_deleted_is_noticed() {
    caught(|_, state| drop(state.jobs.insert(7, job("j7", "CANCELLED", 0, 0, &[]))), "Job 7 was deleted, and is there in the end.");
    alone(|history, _| history.push(claim(98, "b", 7, 1, 106)), "Job 7 was given to b (attempt 1) after it had been deleted.");
}

#[test]
fn what_is_fetched_and_taken_back_is_noticed() {
    alone(
        |history, _| history.push(event(74, 75, Operation::Fetch, Outcome::Fetched(Some(6)))),
        "Job 6 was fetched 2 times, and 1 attempts were left to who fetched it.",
    );
    alone(
        |_, state| {
            state.attempts.insert((6, 1), left("EXPIRED", 72, 80));
            state.jobs.get_mut(&6).unwrap().failed_attempts = 1;
        },
        "Attempt 1 of job 6 has EXPIRED, and its lease had not.",
    );
}

#[test]
fn attempts_that_are_counted_wrong_are_noticed() {
    alone(|_, state| state.jobs.get_mut(&3).unwrap().failed_attempts = 2, "Of job 3 1 attempts went wrong, and 2 are counted.");
    alone(|_, state| state.jobs.get_mut(&1).unwrap().failed_attempts = 0, "Of job 1 1 attempts went wrong, and 0 are counted.");
    alone(|_, state| state.jobs.get_mut(&1).unwrap().max_attempts = 0, "Of job 1 1 attempts went wrong, and it has 0.");
}

#[test]
fn heartbeats_of_clients_that_are_about_something_else_are_noticed() {
    alone(|history, _| history.push(pulse(98, None, &[(2, 1)], &[])), "Attempt 1 of job 2 was extended for a, who does not have it.");
    alone(|history, _| history.push(pulse(107, Some(&[]), &[(10, 1)], &[])), "Attempt 1 of job 10 was extended, and a had not named it.");
    alone(|history, _| history[36] = pulse(106, None, &[], &[]), "Attempt 1 of job 10 was left out of a heartbeat of a, and lived on.");
    alone(
        |history, _| history.push(pulse(106, Some(&[(10, 1)]), &[], &[(10, 1)])),
        "Attempt 1 of job 10 was left out of a heartbeat of a, and lived on.",
    );
    alone(
        |history, _| history[37] = pulse(108, Some(&[(10, 1), (8, 2)]), &[(10, 1)], &[]),
        "Nothing was said of attempt 2 of job 8, which a had named.",
    );
    // What they and those who begin are told holds as well.
    alone(|history, _| history.push(pulse(60, None, &[(4, 1)], &[])), "Attempt 1 of job 4 was not told that the job had been cancelled.");
    let (ended, until) = (at(113), at(200));
    caught(
        |history, state| {
            history[35].outcome = Outcome::Extended { until, cancel_requested: false };
            let kept = state.attempts.get_mut(&(10, 1)).unwrap();
            (kept.status, kept.ended_at, kept.lease_expires_at) = ("EXPIRED".to_owned(), Some(ended), Some(ended));
        },
        &format!("Attempt 1 of job 10 was ended at {ended}, within the lease until {until} that a was told of."),
    );
}

#[test]
fn accelerators_that_are_overdrawn_are_noticed() {
    alone(
        |_, state| state.clients.get_mut("a").unwrap().accelerators = 0,
        &format!("Client a has 0 accelerators and held 1 from {} on, with job 10.", at(102)),
    );
}

#[test]
fn a_history_in_which_nothing_was_seen_tells_nothing() {
    let (mut history, _) = good();
    assert!(unseen(&history).iter().any(|few| few == "Of completions there were only 4, and 30 are expected."), "{:?}", unseen(&history));
    let complete = report(200, 1, 2, Ending::Complete, Outcome::Accepted);
    history.extend(vec![complete; 30]);
    assert!(!unseen(&history).iter().any(|few| few.contains("completions")), "{:?}", unseen(&history));
    for event in &mut history {
        event.outcome = Outcome::Unknown;
    }
    assert_eq!(unseen(&history).len(), 9);
    assert_eq!(check(&history, &State::default()), [""; 0], "nothing is wrong with it, which is why it is asked");
}
