//! Who asks while something is being asked, asks together with the others.
//!
//! The first asks at once. Whoever comes before that is answered waits, and then all of them are asked for in one call, each question once, however many ask
//! it. So nobody is told the answer to a question that was asked before they came, and whoever is alone waits for nobody. When so many wait that they fill a
//! call it is made at once: of what is far away much can be asked at the same time.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::{runtime::Handle, sync::oneshot};

/// How to ask.
pub trait Ask: Send + Sync + 'static {
    /// A question.
    type Question: Eq + Hash + Send + Sync;
    /// Its answer, the same for all who ask it together.
    type Answer: Clone + Send;

    /// Where it is asked.
    type Place: Eq + Hash + Copy + Send + Sync;

    /// How many questions are asked in one call at most.
    const MOST: usize;

    /// Where a question is asked. Those that are asked in different places are not asked together.
    fn place(&self, question: &Self::Question) -> Self::Place;

    /// The answers to questions that are asked in one place, and for how many each is asked.
    fn ask(&self, questions: &[(Arc<Self::Question>, usize)]) -> impl Future<Output = Vec<Self::Answer>> + Send;
}

/// Questions that are under way, and who waits to ask next.
pub struct Batches<A: Ask>(Arc<Shared<A>>);

struct Shared<A: Ask> {
    asker: A,
    /// By place, for each where something is being asked.
    lines: Mutex<HashMap<A::Place, Line<A>>>,
}

/// Who waits to ask in a place.
struct Line<A: Ask> {
    /// How many calls are under way there; with none there is no line.
    calls: usize,
    /// In the order in which they came.
    questions: VecDeque<Arc<A::Question>>,
    askers: HashMap<Arc<A::Question>, Vec<Answered<A>>>,
}

/// What is asked in one call, and for whom.
type Batch<A> = Vec<(Arc<<A as Ask>::Question>, Vec<Answered<A>>)>;

/// To whoever waits: the answer, and at which place they are among those for whom it was asked.
type Answered<A> = oneshot::Sender<(usize, <A as Ask>::Answer)>;

/// Whoever asks is the first, or one of those who wait for an answer.
enum Joined<A: Ask> {
    First(Turn<A>),
    Waits(oneshot::Receiver<(usize, A::Answer)>),
}

/// The right to ask in a place. When it is dropped it goes on to those who wait.
struct Turn<A: Ask> {
    shared: Arc<Shared<A>>,
    place: A::Place,
}

impl<A: Ask> Batches<A> {
    /// Asks by these means.
    pub fn new(asker: A) -> Self {
        Self(Arc::new(Shared { asker, lines: Mutex::default() }))
    }

    /// By which means it asks.
    pub fn asker(&self) -> &A {
        &self.0.asker
    }

    /// The answer to a question, and at which place, from 0, this one is among those for whom it was asked.
    pub async fn ask(&self, question: A::Question) -> (usize, A::Answer) {
        let question = Arc::new(question);
        loop {
            match self.join(&question) {
                Joined::First(turn) => {
                    let answer = self.0.ask_one(question.clone()).await;
                    drop(turn);
                    return (0, answer);
                }
                // No answer only if what asked for it has ended in a panic, of which the log tells.
                Joined::Waits(answer) => {
                    if let Ok(answered) = answer.await {
                        return answered;
                    }
                }
            }
        }
    }

    /// The answer to a question that waits for no others, and that no others wait for.
    pub async fn ask_alone(&self, question: A::Question) -> A::Answer {
        self.0.ask_one(Arc::new(question)).await
    }

    fn join(&self, question: &Arc<A::Question>) -> Joined<A> {
        let place = self.0.asker.place(question);
        let mut lines = self.0.lines();
        let mut line = match lines.entry(place) {
            Entry::Vacant(line) => {
                line.insert(Line { calls: 1, questions: VecDeque::new(), askers: HashMap::new() });
                return Joined::First(self.0.turn(place));
            }
            Entry::Occupied(line) => line,
        };
        let (sender, answer) = oneshot::channel();
        let line = line.get_mut();
        line.push(question, sender);
        let full = if line.questions.len() < A::MOST { Vec::new() } else { line.next() };
        if !full.is_empty() {
            line.calls += 1;
            drop(lines);
            self.0.turn(place).go_on(full);
        }
        Joined::Waits(answer)
    }
}

impl<A: Ask> Shared<A> {
    async fn ask_one(&self, question: Arc<A::Question>) -> A::Answer {
        self.asker.ask(&[(question, 1)]).await.pop().expect("each question has an answer")
    }

    fn lines(&self) -> MutexGuard<'_, HashMap<A::Place, Line<A>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(self: &Arc<Self>, place: A::Place) -> Turn<A> {
        Turn { shared: self.clone(), place }
    }
}

impl<A: Ask> Line<A> {
    fn push(&mut self, question: &Arc<A::Question>, asker: Answered<A>) {
        let askers = self.askers.entry(question.clone()).or_insert_with(|| {
            self.questions.push_back(question.clone());
            Vec::new()
        });
        askers.push(asker);
    }

    /// What is asked next: nothing if nobody waits any more.
    fn next(&mut self) -> Batch<A> {
        let mut next = Vec::with_capacity(self.questions.len().min(A::MOST));
        while next.len() < A::MOST
            && let Some(question) = self.questions.pop_front()
        {
            let mut askers = self.askers.remove(&question).unwrap_or_default();
            askers.retain(|asker| !asker.is_closed());
            if !askers.is_empty() {
                next.push((question, askers));
            }
        }
        next
    }
}

impl<A: Ask> Turn<A> {
    /// In a task of its own: that one of those who wait goes away is nothing to the others.
    fn go_on(self, batch: Batch<A>) {
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(self.ask(batch));
        }
    }

    /// Asks for those who waited. Whoever goes away meanwhile was asked for all the same.
    async fn ask(self, batch: Batch<A>) {
        let questions: Vec<_> = batch.iter().map(|(question, askers)| (question.clone(), askers.len())).collect();
        let answers = self.shared.asker.ask(&questions).await;
        drop(self);
        for ((_, askers), answer) in batch.into_iter().zip(answers) {
            for (place, asker) in askers.into_iter().enumerate() {
                let _ = asker.send((place, answer.clone()));
            }
        }
    }
}

impl<A: Ask> Drop for Turn<A> {
    fn drop(&mut self) {
        let mut lines = self.shared.lines();
        let Entry::Occupied(mut line) = lines.entry(self.place) else { return };
        let next = line.get_mut().next();
        if !next.is_empty() {
            drop(lines);
            self.shared.turn(self.place).go_on(next);
            return;
        }
        line.get_mut().calls -= 1;
        if line.get().calls == 0 {
            line.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::{Pin, pin};

    use futures_util::{future::join_all, poll};
    use tokio::sync::Semaphore;

    use super::*;

    const MOST: usize = 16;

    /// Tenfold, as many calls as the gate lets through; in places by hundreds. What is asked with 13 ends in a panic, once.
    struct Tenfold {
        gate: Semaphore,
        calls: Mutex<Vec<Vec<(u32, usize)>>>,
    }

    impl Ask for Tenfold {
        type Question = u32;
        type Answer = u32;
        type Place = u32;

        const MOST: usize = MOST;

        fn place(&self, question: &u32) -> u32 {
            question / 100
        }

        async fn ask(&self, questions: &[(Arc<u32>, usize)]) -> Vec<u32> {
            let asked: Vec<(u32, usize)> = questions.iter().map(|(question, times)| (**question, *times)).collect();
            let is_first = !self.calls.lock().unwrap().iter().flatten().any(|(question, _)| *question == 13);
            self.calls.lock().unwrap().push(asked.clone());
            self.gate.acquire().await.expect("it stays open").forget();
            assert!(!is_first || asked.iter().all(|(question, _)| *question != 13), "unlucky, on purpose");
            asked.iter().map(|(question, _)| question * 10).collect()
        }
    }

    fn batches() -> Batches<Tenfold> {
        Batches::new(Tenfold { gate: Semaphore::new(0), calls: Mutex::default() })
    }

    impl Batches<Tenfold> {
        fn open(&self, calls: usize) {
            self.0.asker.gate.add_permits(calls);
        }

        fn calls(&self) -> Vec<Vec<(u32, usize)>> {
            self.0.asker.calls.lock().unwrap().clone()
        }
    }

    /// Questions, each asked and waiting for its answer.
    async fn begun<'a>(batches: &'a Batches<Tenfold>, questions: &[u32]) -> Vec<Pin<Box<impl Future<Output = (usize, u32)> + use<'a>>>> {
        let mut begun = Vec::new();
        for question in questions {
            let mut asked = Box::pin(batches.ask(*question));
            assert!(poll!(asked.as_mut()).is_pending());
            begun.push(asked);
        }
        begun
    }

    #[tokio::test]
    async fn those_who_come_meanwhile_are_asked_for_in_one_call_and_after_that() {
        let batches = batches();
        let asked = begun(&batches, &[1, 2, 1, 3, 2, 1]).await;
        let mut elsewhere = pin!(batches.ask(100));
        assert!(poll!(elsewhere.as_mut()).is_pending());
        assert_eq!(batches.calls(), [[(1, 1)], [(100, 1)]], "the first of a place waits for nobody");
        batches.open(3);
        assert_eq!(join_all(asked).await, [(0, 10), (0, 20), (0, 10), (0, 30), (1, 20), (1, 10)]);
        assert_eq!(elsewhere.await, (0, 1000));
        assert_eq!(batches.calls()[2..], [[(2, 2), (1, 2), (3, 1)]], "who asks the same as the first was not there when it was asked");
        assert!(batches.0.lines().is_empty(), "nothing is left of places where nothing is asked");
    }

    #[tokio::test]
    async fn whoever_goes_away_takes_nothing_from_the_others() {
        let batches = batches();
        let mut asked = begun(&batches, &[1, 2, 3, 3, 4]).await;
        drop(asked.remove(3));
        drop(asked.remove(1));
        drop(asked.remove(0));
        let mut rest = pin!(join_all(asked));
        // The next call has begun, and one more goes away.
        let mut late = begun(&batches, &[5]).await;
        while batches.calls().len() < 2 {
            tokio::task::yield_now().await;
        }
        drop(late.remove(0));
        batches.open(2);
        assert_eq!(rest.as_mut().await, [(0, 30), (0, 40)]);
        assert_eq!(batches.calls(), [vec![(1, 1)], vec![(3, 1), (4, 1)]], "who had gone before was not asked for");
        while !batches.0.lines().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_call_that_is_full_waits_for_no_other_and_questions_keep_their_order() {
        let batches = batches();
        let questions: Vec<u32> = (20..=u32::try_from(MOST).unwrap() + 24).collect();
        let asked = begun(&batches, &questions).await;
        while batches.calls().len() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(batches.calls().iter().map(Vec::len).collect::<Vec<_>>(), [1, MOST], "the first has no answer yet");
        batches.open(3);
        assert_eq!(join_all(asked).await, questions.iter().map(|question| (0, question * 10)).collect::<Vec<_>>());
        assert_eq!(batches.calls().iter().map(Vec::len).collect::<Vec<_>>(), [1, MOST, 4]);
        assert_eq!(batches.calls().concat(), questions.iter().map(|question| (*question, 1)).collect::<Vec<_>>());
        while !batches.0.lines().is_empty() {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn those_whose_call_ended_in_a_panic_ask_again() {
        let batches = batches();
        let asked = begun(&batches, &[1, 13, 2]).await;
        batches.open(5);
        assert_eq!(join_all(asked).await, [(0, 10), (0, 130), (0, 20)]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn everybody_is_answered_whoever_goes_away() {
        let batches = Arc::new(batches());
        batches.open(1_000_000);
        let askers = (0..4_000_u32).map(|asker| {
            let batches = batches.clone();
            tokio::spawn(async move {
                let question = 20 + asker % 50;
                let mut asked = Box::pin(batches.ask(question));
                if asker % 5 == 0 {
                    let _ = poll!(asked.as_mut());
                } else {
                    assert_eq!(asked.await.1, question * 10);
                }
            })
        });
        let all = tokio::time::timeout(std::time::Duration::from_secs(30), join_all(askers)).await;
        all.expect("expected everybody to be answered").into_iter().for_each(|asker| asker.expect("an answer"));
        while !batches.0.lines().is_empty() {
            tokio::task::yield_now().await;
        }
    }
}
