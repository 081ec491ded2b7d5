//! Who asks the same while it is being asked, asks together.
//!
//! The first asks at once. Whoever comes with the same question before that is answered waits, and then one of them asks for all of them. So nobody is
//! told the answer to a question that was asked before they came, a question is under way once at a time, however many ask it, and whoever is alone with
//! theirs waits for nobody.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Questions `Q` that are under way, and who waits to ask them next. All who ask one together get the same answer `A`.
pub struct Together<Q: Eq + Hash, A>(Arc<Mutex<Waiting<Q, A>>>);

/// By their question, for each that is under way.
type Waiting<Q, A> = HashMap<Arc<Q>, VecDeque<oneshot::Sender<Turn<Q, A>>>>;

/// What becomes of whoever waits.
enum Turn<Q: Eq + Hash, A> {
    /// It was asked for them.
    Answered(A),
    /// They are to ask.
    Ask(Asking<Q, A>),
}

/// The right to ask a question, for oneself and others. It goes on to the next of them when it is dropped; who has no answer yet comes first.
struct Asking<Q: Eq + Hash, A> {
    waiting: Arc<Mutex<Waiting<Q, A>>>,
    question: Arc<Q>,
    others: VecDeque<oneshot::Sender<Turn<Q, A>>>,
}

impl<Q: Eq + Hash, A> Default for Together<Q, A> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<Q: Eq + Hash, A: Clone> Together<Q, A> {
    /// The answer to a question. What was asked by somebody who then went away before the answer came is asked again.
    pub async fn ask<F: Future<Output = A>>(&self, question: Q, ask: impl FnOnce() -> F) -> A {
        let question = Arc::new(question);
        let mut asking = loop {
            match self.join(&question) {
                Ok(asking) => break asking,
                Err(turn) => match turn.await {
                    Ok(Turn::Answered(answer)) => return answer,
                    Ok(Turn::Ask(asking)) => break asking,
                    Err(_) => {}
                },
            }
        };
        let answer = ask().await;
        for other in asking.others.drain(..) {
            let _ = other.send(Turn::Answered(answer.clone()));
        }
        answer
    }

    /// The right to ask, or when it is this one's turn.
    fn join(&self, question: &Arc<Q>) -> Result<Asking<Q, A>, oneshot::Receiver<Turn<Q, A>>> {
        match lock(&self.0).entry(question.clone()) {
            Entry::Vacant(place) => {
                place.insert(VecDeque::new());
                Ok(Asking { waiting: self.0.clone(), question: question.clone(), others: VecDeque::new() })
            }
            Entry::Occupied(mut waiting) => {
                let (sender, turn) = oneshot::channel();
                waiting.get_mut().push_back(sender);
                Err(turn)
            }
        }
    }
}

impl<Q: Eq + Hash, A> Drop for Asking<Q, A> {
    fn drop(&mut self) {
        let mut waiting = lock(&self.waiting);
        let Entry::Occupied(mut queue) = waiting.entry(self.question.clone()) else { return };
        let mut next: VecDeque<_> = self.others.drain(..).chain(queue.get_mut().drain(..)).filter(|other| !other.is_closed()).collect();
        let Some(first) = next.pop_front() else {
            queue.remove();
            return;
        };
        drop(waiting);
        let asking = Self { waiting: self.waiting.clone(), question: self.question.clone(), others: next };
        // If it has gone in this moment, the right comes back, is dropped, and goes on to the one after it.
        let _ = first.send(Turn::Ask(asking));
    }
}

fn lock<Q, A>(waiting: &Mutex<Waiting<Q, A>>) -> MutexGuard<'_, Waiting<Q, A>>
where
    Q: Eq + Hash,
{
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::{
        future::{pending, ready},
        pin::{Pin, pin},
        sync::atomic::{AtomicUsize, Ordering},
        task::Poll,
    };

    use futures_util::{future::join_all, poll};
    use tokio::sync::Notify;

    use super::*;

    /// How often something was asked.
    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Count {
        fn asked(&self) -> usize {
            self.0.fetch_add(1, Ordering::Relaxed) + 1
        }
    }

    #[tokio::test]
    async fn those_who_come_meanwhile_are_asked_for_once_and_after_that() {
        let (together, count, first, second) = (Together::default(), Count::default(), Notify::new(), Notify::new());
        let ask = async |release: &Notify| {
            together
                .ask("question", || async {
                    let number = count.asked();
                    release.notified().await;
                    number
                })
                .await
        };
        let mut alone = pin!(ask(&first));
        assert!(poll!(alone.as_mut()).is_pending());
        let mut others: Vec<Pin<Box<_>>> = (0..3).map(|_| Box::pin(ask(&second))).collect();
        for other in &mut others {
            assert!(poll!(other.as_mut()).is_pending());
        }
        assert_eq!(together.ask("another", || ready(7)).await, 7, "it waits for nobody");
        first.notify_one();
        assert_eq!(poll!(alone.as_mut()), Poll::Ready(1), "it was asked before the others came");
        second.notify_one();
        assert_eq!(join_all(others).await, [2, 2, 2]);
        assert!(lock(&together.0).is_empty(), "nothing is left of questions that were answered");
    }

    #[tokio::test]
    async fn whoever_goes_away_leaves_it_to_the_others() {
        let (together, count) = (Together::default(), Count::default());
        let mut first = Box::pin(together.ask((), pending::<usize>));
        assert!(poll!(first.as_mut()).is_pending());
        let mut second = Box::pin(together.ask((), pending));
        let mut others: Vec<Pin<Box<_>>> = (0..4).map(|_| Box::pin(together.ask((), || ready(count.asked())))).collect();
        assert!(poll!(second.as_mut()).is_pending());
        for other in &mut others {
            assert!(poll!(other.as_mut()).is_pending());
        }
        drop(first);
        assert!(poll!(second.as_mut()).is_pending(), "it asks for all five now");
        // One has gone while it was asked for, one while the right to ask was on its way to it.
        let (gone, about_to_ask) = (others.remove(1), others.remove(0));
        drop(gone);
        drop(second);
        drop(about_to_ask);
        assert_eq!(join_all(others).await, [1, 1]);
        assert!(lock(&together.0).is_empty());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn everybody_is_answered_whoever_goes_away() {
        let together = Arc::new(Together::default());
        let askers = (0..2_000_usize).map(|asker| {
            let together = together.clone();
            tokio::spawn(async move {
                let answered = together.ask(asker % 3, || async move {
                    tokio::task::yield_now().await;
                    asker % 3
                });
                if asker % 5 == 0 {
                    let mut given_up = Box::pin(answered);
                    let _ = poll!(given_up.as_mut());
                } else {
                    assert_eq!(answered.await, asker % 3);
                }
            })
        });
        let all = tokio::time::timeout(std::time::Duration::from_secs(30), join_all(askers)).await;
        all.expect("expected everybody to be answered").into_iter().for_each(|asker| asker.expect("an answer"));
        assert!(lock(&together.0).is_empty());
    }
}
