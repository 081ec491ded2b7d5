//! Histories made by hand: a good one, and for each rule one that breaks it.

use chrono::TimeDelta;

use super::*;

fn at(seconds: i64) -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(seconds)
}

fn event(from: u64, to: u64, operation: Operation, outcome: Outcome) -> Event {
    Event { invoked: Duration::from_secs(from), ended: Duration::from_secs(to), operation, outcome }
}

fn submit(from: u64, id: i64, parents: &[i64]) -> Event {
    event(from, from + 1, Operation::Submit { parents: parents.to_vec() }, Outcome::Submitted(id))
}

fn claim(from: u64, client: &str, job: i64, attempt: i32, until: i64) -> Event {
    let offer = Offer { job, attempt, lease_expires_at: at(until) };
    event(from, from + 1, Operation::Claim { client: client.to_owned() }, Outcome::Claimed(vec![offer]))
}

fn report(from: u64, job: i64, attempt: i32, ending: Ending, outcome: Outcome) -> Event {
    event(from, from + 1, Operation::Report { job, attempt, ending }, outcome)
}

fn kept(client: &str, status: &str, cpu: i64, from: i64, to: i64) -> Attempt {
    Attempt { client: client.to_owned(), status: status.to_owned(), cpu, claimed_at: at(from), ended_at: Some(at(to)) }
}

/// Job 1 expires at a's and is completed by b, who completes job 2 then, which waits for it; a comes back too late. Of job 3 nobody heard.
fn good() -> (Vec<Event>, State) {
    let history = vec![
        submit(0, 1, &[]),
        submit(2, 2, &[1]),
        event(4, 5, Operation::Submit { parents: vec![] }, Outcome::Unknown),
        claim(10, "a", 1, 1, 15),
        event(12, 13, Operation::Beat { job: 1, attempt: 1 }, Outcome::Extended(at(17))),
        claim(20, "b", 1, 2, 30),
        report(22, 1, 1, Ending::Complete, Outcome::Refused(409)),
        report(23, 1, 2, Ending::Complete, Outcome::Unknown),
        report(24, 1, 2, Ending::Complete, Outcome::Accepted),
        claim(30, "b", 2, 1, 40),
        report(32, 2, 1, Ending::Complete, Outcome::Accepted),
        claim(34, "a", 3, 1, 40),
        report(36, 3, 1, Ending::Fail, Outcome::Accepted),
    ];
    let job = |status: &str, attempt, parents: &[i64]| Job { status: status.to_owned(), attempt, parents: parents.to_vec() };
    let state = State {
        jobs: BTreeMap::from([(1, job("COMPLETED", 2, &[])), (2, job("COMPLETED", 1, &[1])), (3, job("FAILED", 1, &[]))]),
        attempts: BTreeMap::from([
            ((1, 1), kept("a", "EXPIRED", 2, 10, 18)),
            ((1, 2), kept("b", "COMPLETED", 2, 20, 24)),
            ((2, 1), kept("b", "COMPLETED", 1, 30, 33)),
            ((3, 1), kept("a", "FAILED", 1, 34, 37)),
        ]),
        clients: BTreeMap::from([("a".to_owned(), 2), ("b".to_owned(), 2)]),
    };
    (history, state)
}

#[test]
fn nothing_is_said_of_a_good_history() {
    let (history, state) = good();
    assert_eq!(check(&history, &state), [""; 0]);
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
        |_, state| state.attempts.get_mut(&(1, 1)).unwrap().client = "b".to_owned(),
        "Attempt 1 of job 1 was given to client a, and is noted for b.",
    );
}

#[test]
fn what_nobody_asked_for_is_noticed() {
    caught(|history, _| drop(history.remove(2)), "1 jobs are there whose submitters were not told so, and only for 0 is it unknown.");
    caught(|history, _| history.push(submit(50, 2, &[1])), "Two were told that job 2 is theirs.");
    caught(|history, _| drop(history.pop()), "Attempt 1 of job 3 is FAILED, and nobody reported that.");
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
    caught(
        |history, _| history.push(claim(40, "a", 2, 2, 50)),
        "Job 2 was given to client a (attempt 2) after its completion had been accepted.",
    );
    caught(|_, state| state.attempts.get_mut(&(1, 1)).unwrap().status = "COMPLETED".to_owned(), "Job 1 has 2 completed attempts.");
}

#[test]
fn a_job_that_is_given_out_before_its_parents_completed_is_noticed() {
    caught(|history, _| history[9] = claim(21, "b", 2, 1, 40), "Job 2 (attempt 1) was given to b before anybody had completed job 1.");
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
