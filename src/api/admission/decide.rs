//! Whether one more request of a subject may come in: from memory if it was just refused, by Redis, which is asked once for all who ask
//! while it is being asked, or by this server alone while Redis is away.

use std::{
    future::ready,
    hash::{Hash, Hasher},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use tokio::time::sleep;

use super::{
    Class, Subject,
    headers::{Told, too_many},
};
use crate::{
    api::{Error, error::Aside},
    coalesce::{Ask, Batches},
    config::RedisFailure,
    limits::{
        self, Admission, Admissions, Guard, Limits, Local, Owed, Refused, Standing, Verdict, Window,
        refused::{Memory, Refusal},
        window::MAX_LIMIT,
    },
    redis::{Away, Redis, Slot},
};

/// The length of all windows.
const MINUTE: Duration = Duration::from_secs(60);

/// How many windows are charged at the same time when Redis is back.
const TOGETHER: usize = 32;

/// Decides.
pub(super) struct Decider {
    asked: Batches<Windows>,
    /// By whose window it is, and what was asked.
    refused: Refused<(Subject, &'static str), Error>,
    local: Local,
    on_failure: RedisFailure,
}

/// The windows in Redis.
struct Windows {
    redis: Redis,
    limits: Limits,
}

/// What is asked of them.
#[derive(PartialEq, Eq)]
struct Question {
    subject: Subject,
    guard: Option<Guard>,
    windows: Vec<Window>,
}

impl Hash for Question {
    /// By what nearly all of them differ in.
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.subject, self.guard.and_then(|guard| guard.token)).hash(state);
    }
}

impl Ask for Windows {
    type Question = Question;
    type Answer = Result<Arc<Admissions>, Away>;
    type Place = Option<Slot>;

    /// Redis does nothing else meanwhile.
    const MOST: usize = 16;

    fn place(&self, question: &Question) -> Option<Slot> {
        self.redis.slot(question.subject)
    }

    async fn ask(&self, questions: &[(Arc<Question>, usize)]) -> Vec<Self::Answer> {
        let names: Vec<String> = questions.iter().map(|(question, _)| question.subject.to_string()).collect();
        let asked = names.iter().zip(questions).map(|(subject, (question, times))| {
            let Question { guard, windows, .. } = &**question;
            limits::Question { subject, guard: *guard, windows, times: *times }
        });
        match self.admit_all(&asked.collect::<Vec<_>>()).await {
            Ok(admissions) => admissions.into_iter().map(|one| Ok(Arc::new(one))).collect(),
            Err(away) => vec![Err(away); questions.len()],
        }
    }
}

impl Windows {
    async fn admit_all(&self, questions: &[limits::Question<'_>]) -> Result<Vec<Admissions>, Away> {
        let attempt = self.redis.attempt(questions.first().map_or("", |question| question.subject))?;
        let mut connection = attempt.connection();
        attempt.answer(self.limits.admit_all(&mut connection, questions)).await
    }
}

/// What was decided.
pub(super) enum Decision {
    /// It may come in. Tells of the first window, if that is not off.
    In(Option<Told>),
    /// Its record is not the one that was verified, or not there.
    Stale,
    /// It was revoked, or has expired.
    Gone,
    /// Redis is away, and the caller has to look at the record itself before it asks [`Decider::alone`].
    Alone,
}

impl Decider {
    pub(super) fn new(redis: Redis, on_failure: RedisFailure) -> Self {
        let limits = Limits::new(redis.prefix());
        let asked = Batches::new(Windows { redis, limits });
        Self { asked, refused: Refused::default(), local: Local::default(), on_failure }
    }

    fn windows(&self) -> &Windows {
        self.asked.asker()
    }

    /// Decides, by the subject's record too if there is a guard. `class` names what is asked, in memory.
    ///
    /// # Errors
    ///
    /// 429 over a limit; 503 if Redis is away and nobody is to come in then.
    pub(super) async fn decide(
        &self,
        subject: Subject,
        class: &'static str,
        guard: Option<Guard>,
        windows: &[Window],
    ) -> Result<Decision, Error> {
        let memory = self.refused.get_or_ask(&(subject, class), Instant::now(), |refusal| refuse(refusal, policy(class), subject));
        if let Memory::Refused(refusal) = memory {
            return Err(refusal);
        }
        match in_time(|| self.ask(subject, guard, windows)).await {
            Ok(Admission::Admitted { standings }) => {
                if matches!(memory, Memory::Past) {
                    self.refused.forget(&(subject, class));
                }
                Ok(Decision::In(told(policy(class), standings.first().copied().flatten())))
            }
            Ok(Admission::Refused { standings, retry_after_ms }) => {
                let refusal = Refusal { standings, retry_after_ms };
                let error = refuse(&refusal, policy(class), subject);
                self.refused.put((subject, class), Instant::now(), refusal);
                Err(error)
            }
            Ok(Admission::Missing | Admission::Stale) => Ok(Decision::Stale),
            Ok(Admission::Gone) => Ok(Decision::Gone),
            Err(Away) => self.without_redis(),
        }
    }

    /// Asks together with whoever asks at the same time.
    async fn ask(&self, subject: Subject, guard: Option<Guard>, windows: &[Window]) -> Result<Admission, Away> {
        let (place, answer) = self.asked.ask(Question { subject, guard, windows: windows.to_vec() }).await;
        answer.map(|admissions| admissions.of(place))
    }

    /// The refusal of a moment ago, if it still holds: 429.
    pub(super) fn refusal(&self, subject: Subject, class: &'static str) -> Option<Error> {
        match self.refused.get(&(subject, class), Instant::now(), |refusal| refuse(refusal, policy(class), subject)) {
            Memory::Refused(refusal) => Some(refusal),
            Memory::Past | Memory::Nothing => None,
        }
    }

    /// Decides by what this server has admitted itself, with its share of the limits.
    ///
    /// # Errors
    ///
    /// 429 over the share.
    pub(super) fn alone(&self, subject: Subject, windows: &[Window], own_limit: Option<u32>) -> Result<Option<Told>, Error> {
        let decision = self.local.admit(subject.kind(), &subject.to_string(), windows, own_limit, self.windows().redis.servers());
        let first = decision.standings.first().copied().flatten();
        match decision.verdict {
            Verdict::Admits => Ok(told("degraded", first)),
            Verdict::After(ms) => Err(refuse(&Refusal { standings: decision.standings, retry_after_ms: Some(ms) }, "degraded", subject)),
            Verdict::Never => Err(refuse(&Refusal { standings: decision.standings, retry_after_ms: None }, "degraded", subject)),
        }
    }

    /// Charges in Redis what this server has admitted by itself, as far as there is room.
    pub(super) async fn take_over(&self) {
        let charges = self.local.owed().into_iter().map(async |owed| {
            let Owed { subject, window, .. } = &owed;
            let attempt = self.windows().redis.early_attempt(subject)?;
            let mut connection = attempt.connection();
            let charged = attempt.answer(self.windows().limits.charge(&mut connection, subject, *window)).await;
            charged.map(|()| self.local.paid(&owed))
        });
        if stream::iter(charges).buffer_unordered(TOGETHER).any(|charged| ready(charged.is_err())).await {
            tracing::debug!("not all that was admitted without Redis could be charged there");
        }
    }

    /// How a window stands, with nothing taken.
    ///
    /// # Errors
    ///
    /// 503 while Redis is away.
    pub(super) async fn standing(&self, subject: Subject, window: Window) -> Result<Option<Standing>, Error> {
        let name = subject.to_string();
        let attempt = self.windows().redis.attempt(&name).map_err(away)?;
        let mut connection = attempt.connection();
        let windows = [window];
        let standings = attempt.answer(self.windows().limits.standing(&mut connection, &name, &windows)).await.map_err(away)?;
        Ok(standings.first().copied().flatten())
    }

    /// Empties windows, and forgets that they were full.
    ///
    /// # Errors
    ///
    /// 503 while Redis is away.
    pub(super) async fn reset(&self, subject: Subject, names: &[&'static str]) -> Result<(), Error> {
        let name = subject.to_string();
        let attempt = self.windows().redis.attempt(&name).map_err(away)?;
        let mut connection = attempt.connection();
        attempt.answer(self.windows().limits.reset(&mut connection, &name, names)).await.map_err(away)?;
        for name in names {
            self.refused.forget(&(subject, *name));
        }
        Ok(())
    }

    fn without_redis(&self) -> Result<Decision, Error> {
        match self.on_failure {
            RedisFailure::Degrade => Ok(Decision::Alone),
            RedisFailure::Deny => Err(Error::unavailable("The server cannot check limits right now. Try again in a moment.")),
        }
    }
}

/// What is answered, or answered a millisecond later if there is room then: windows are that much longer than who waited was told.
async fn in_time<F: Future<Output = Result<Admission, Away>>>(ask: impl Fn() -> F) -> Result<Admission, Away> {
    let answer = ask().await;
    if !matches!(answer, Ok(Admission::Refused { retry_after_ms: Some(..=1), .. })) {
        return answer;
    }
    sleep(Duration::from_millis(1)).await;
    ask().await
}

/// A window of a minute. A limit that is larger than windows can have is as good as the largest.
pub(super) fn window(name: &'static str, limit: u32, weight: u32, own_limit: bool) -> Window {
    Window { name, limit: limit.min(MAX_LIMIT), length: MINUTE, weight, own_limit }
}

fn away(Away: Away) -> Error {
    Error::unavailable("Redis, which holds the limits, is not available right now. Try again in a moment.")
}

/// What the policy of a class is called.
fn policy(class: &str) -> &'static str {
    if class == Class::Report.name() { "report" } else { "default" }
}

fn told(policy: &'static str, standing: Option<Standing>) -> Option<Told> {
    standing.map(|standing| Told { policy, window_seconds: MINUTE.as_secs(), standing })
}

fn refuse(refusal: &Refusal, policy: &'static str, subject: Subject) -> Error {
    // The window that refuses says more than one that does not.
    let full = refusal.standings.iter().flatten().max_by_key(|standing| standing.verdict).copied();
    let error = too_many(refusal.retry_after_ms, told(policy, full).as_ref());
    match subject {
        Subject::Key(id) => error.with_aside(Aside::LimitOf(id)),
        Subject::Configured(place) => error.with_aside(Aside::LimitOfConfigured(place)),
        // Who only says to have a key may be anybody.
        Subject::Address(_) | Subject::KeyAt(..) => error,
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, time::Instant};

    use super::*;

    /// Whether somebody comes in who asks a window that has room so many milliseconds later, and how often it is asked.
    async fn asked(wait_ms: u64) -> (bool, usize) {
        let asked = RefCell::new(Vec::new());
        let ask = || {
            let mut asked = asked.borrow_mut();
            let now = Instant::now();
            asked.push(now);
            let passed_ms = u64::try_from((now - asked[0]).as_millis()).expect("a moment");
            ready(Ok(match wait_ms.saturating_sub(passed_ms) {
                0 => Admission::Admitted { standings: Vec::new() },
                left => Admission::Refused { standings: Vec::new(), retry_after_ms: Some(left) },
            }))
        };
        let is_in = matches!(in_time(ask).await, Ok(Admission::Admitted { .. }));
        (is_in, asked.into_inner().len())
    }

    #[tokio::test]
    async fn who_comes_a_millisecond_early_is_let_in_and_nobody_else_is_asked_for_again() {
        assert_eq!([asked(0).await, asked(1).await, asked(60_000).await], [(true, 1), (true, 2), (false, 1)]);
    }
}
