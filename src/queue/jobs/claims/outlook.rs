//! What there may be for those who wait. When nobody rang, all projects of a server ask together, so few statements tell it, however many wait in however many
//! projects. Where a bell rang, or somebody comes meanwhile, it is asked at once and alone; so does a project of which the answer takes long, so that no other one waits
//! for it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

use super::Head;
use crate::{
    coalesce::{Ask, Batches},
    postgres::{
        Database, Query, Row,
        query::{Params, claims as sql},
    },
    queue::{bells::Bell, jobs::Resources},
};

/// How long it is not looked again without anybody ringing: from so long to twice as long.
const LOOK_AGAIN: Duration = Duration::from_millis(1000);

/// How long an answer takes that is long: so long, and so much longer for each that is asked for.
const LONG: Duration = Duration::from_millis(100);
const LONG_EACH: Duration = Duration::from_micros(200);

/// Of the connections to the database, one of so many is for projects of which the answer takes long.
const SHARE: usize = 4;

/// What is asked of the database for those who wait at this server.
pub(super) struct Outlook {
    heads: Batches<Heads>,
    rooms: Batches<Rooms>,
    /// For those who ask alone though nobody rang.
    alone: Semaphore,
    looks: Looks,
}

/// How one project looks at it.
pub(super) struct View {
    outlook: Arc<Outlook>,
    project_id: i64,
    bell: Arc<Bell>,
    next: Instant,
    heads: Pace,
    room: Pace,
}

/// Whether the last answer took long.
#[derive(Debug, Default)]
struct Pace {
    is_slow: bool,
}

/// What the database told, and whether that took long.
#[derive(Debug, Clone)]
struct Told<T> {
    what: T,
    took_long: bool,
}

/// Why it is looked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Occasion {
    /// A bell rang.
    Bell,
    /// It is time to.
    Time,
}

/// When it is looked again though nobody rang.
#[derive(Debug, Default)]
struct Looks(Mutex<Option<Instant>>);

/// What clients have left, by their ids.
pub(super) type Room = HashMap<String, Resources>;

struct Heads(Database);
struct Rooms(Database);

/// A project, and the most that anybody who waits there would take.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Largest {
    project_id: i64,
    most: Resources,
}

impl Outlook {
    pub(super) fn new(database: &Database) -> Self {
        let alone = (database.stats().pool_size / SHARE).max(1);
        Self {
            heads: Batches::new(Heads(database.clone())),
            rooms: Batches::new(Rooms(database.clone())),
            alone: Semaphore::new(alone),
            looks: Looks::default(),
        }
    }
}

impl View {
    /// That of a project with this bell.
    pub(super) fn new(outlook: Arc<Outlook>, project_id: i64, bell: Arc<Bell>) -> Self {
        let next = outlook.looks.next(Instant::now());
        Self { outlook, project_id, bell, next, heads: Pace::default(), room: Pace::default() }
    }

    /// Of which project it is.
    pub(super) fn project_id(&self) -> i64 {
        self.project_id
    }

    /// When it is looked again though nobody rang: in all projects at once, and at another time at each server.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Whether that is now; then it is looked again after as long.
    pub(super) fn is_time(&mut self) -> bool {
        let now = Instant::now();
        let is_time = now >= self.next;
        if is_time {
            self.next = self.outlook.looks.next(now);
        }
        is_time
    }

    /// What each task's most urgent ready job needs, of those that need no more than this. Nothing while the database is away.
    pub(super) async fn heads(&mut self, occasion: Occasion, most: Resources) -> Arc<[Head]> {
        let Self { outlook, project_id, bell, heads, .. } = self;
        heads.ask(&outlook.heads, &outlook.alone, bell, occasion, Largest { project_id: *project_id, most }).await
    }

    /// What clients have left, and maybe others. Nothing while the database is away.
    pub(super) async fn room(&mut self, occasion: Occasion, mut clients: Vec<String>) -> Arc<Room> {
        clients.sort_unstable();
        let Self { outlook, bell, room, .. } = self;
        room.ask(&outlook.rooms, &outlook.alone, bell, occasion, clients).await
    }
}

impl Pace {
    async fn ask<A, T>(&mut self, batches: &Batches<A>, alone: &Semaphore, bell: &Bell, occasion: Occasion, question: A::Question) -> T
    where
        A: Ask<Answer = Told<T>>,
        A::Question: Clone,
    {
        let told = match occasion {
            Occasion::Bell => batches.ask_alone(question).await,
            Occasion::Time => tokio::select! {
                biased;
                () = bell.stirs() => batches.ask_alone(question.clone()).await,
                told = self.ask_in_turn(batches, alone, question.clone()) => told,
            },
        };
        // Whoever was asked for together with what takes long asks alone once.
        self.is_slow = told.took_long;
        told.what
    }

    async fn ask_in_turn<A: Ask<Answer = Told<T>>, T>(&self, batches: &Batches<A>, alone: &Semaphore, question: A::Question) -> Told<T> {
        if self.is_slow {
            // Nobody closes it.
            let _place = alone.acquire().await;
            return batches.ask_alone(question).await;
        }
        batches.ask(question).await.1
    }
}

impl Looks {
    fn next(&self, now: Instant) -> Instant {
        let mut next = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match *next {
            Some(next) if next > now => next,
            _ => *next.insert(now + LOOK_AGAIN.mul_f64(1.0 + jitter())),
        }
    }
}

/// From 0 to 1, another one each time.
fn jitter() -> f64 {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    f64::from(random) / f64::from(u32::MAX)
}

impl Ask for Heads {
    type Question = Largest;
    type Answer = Told<Arc<[Head]>>;
    type Place = ();

    const MOST: usize = 1024;

    fn place(&self, _: &Self::Question) {}

    async fn ask(&self, questions: &[(Arc<Largest>, usize)]) -> Vec<Self::Answer> {
        let mut heads: Vec<Vec<Head>> = questions.iter().map(|_| Vec::new()).collect();
        let Told { what: rows, took_long } = self.read(questions).await;
        for row in rows {
            let place = usize::try_from(row.get::<_, i64>("position") - 1).expect("it is the place of an array element");
            let needs = Resources { cpu: row.get("required_cpu"), accelerators: row.get("required_accelerators") };
            heads[place].push(Head { task_id: row.get("task_id"), needs });
        }
        heads.into_iter().map(|heads| Told { what: heads.into(), took_long }).collect()
    }
}

impl Heads {
    async fn read(&self, questions: &[(Arc<Largest>, usize)]) -> Told<Vec<Row>> {
        let projects: Vec<i64> = questions.iter().map(|(question, _)| question.project_id).collect();
        let cpu: Vec<i32> = questions.iter().map(|(question, _)| question.most.cpu).collect();
        let accelerators: Vec<i32> = questions.iter().map(|(question, _)| question.most.accelerators).collect();
        let params: Params<'_> = &[&projects, &cpu, &accelerators];
        read(&self.0, sql::HEADS, params, questions.len()).await
    }
}

impl Ask for Rooms {
    /// Clients.
    type Question = Vec<String>;
    type Answer = Told<Arc<Room>>;
    type Place = ();

    const MOST: usize = 1024;

    fn place(&self, _: &Self::Question) {}

    async fn ask(&self, questions: &[(Arc<Vec<String>>, usize)]) -> Vec<Self::Answer> {
        let clients: HashSet<&str> = questions.iter().flat_map(|(clients, _)| clients.iter().map(String::as_str)).collect();
        let clients: Vec<&str> = clients.into_iter().collect();
        let Told { what: rows, took_long } = read(&self.0, sql::ROOM, &[&clients], clients.len()).await;
        let left = |row: &Row, column: &str| row.get::<_, i64>(column).clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        let room = |row: &Row| (row.get("id"), Resources { cpu: left(row, "cpu"), accelerators: left(row, "accelerators") });
        vec![Told { what: Arc::new(rows.iter().map(room).collect()), took_long }; questions.len()]
    }
}

/// What a statement tells of so many. Nothing while the database is away, or if it takes too long.
async fn read(database: &Database, query: Query, params: Params<'_>, count: usize) -> Told<Vec<Row>> {
    let Ok(client) = database.client().await else { return Told { what: Vec::new(), took_long: false } };
    let began = Instant::now();
    let rows = query.all(&client, params).await.unwrap_or_default();
    let long = LONG + LONG_EACH * u32::try_from(count).unwrap_or(u32::MAX);
    Told { what: rows, took_long: began.elapsed() > long }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::{
        future::{join, join_all},
        poll,
    };
    use tokio::{sync::Semaphore, task::yield_now};

    use super::*;

    /// Tells what it is asked, as many times as the gate lets through, and takes long where 13 is asked for.
    struct Echo {
        gate: Semaphore,
        calls: Mutex<Vec<Vec<u32>>>,
    }

    impl Ask for Echo {
        type Question = u32;
        type Answer = Told<u32>;
        type Place = ();

        const MOST: usize = 1024;

        fn place(&self, _: &u32) {}

        async fn ask(&self, questions: &[(Arc<u32>, usize)]) -> Vec<Told<u32>> {
            let questions: Vec<u32> = questions.iter().map(|(question, _)| **question).collect();
            self.calls.lock().unwrap().push(questions.clone());
            yield_now().await;
            self.gate.acquire().await.expect("it stays open").forget();
            let took_long = questions.contains(&13);
            questions.into_iter().map(|what| Told { what, took_long }).collect()
        }
    }

    fn echo(calls: usize) -> Batches<Echo> {
        Batches::new(Echo { gate: Semaphore::new(calls), calls: Mutex::default() })
    }

    /// One project at a time may be slow.
    static ALONE: Semaphore = Semaphore::const_new(1);

    /// A project's.
    #[derive(Default)]
    struct Asker {
        pace: Pace,
        bell: Bell,
    }

    impl Asker {
        async fn ask(&mut self, batches: &Batches<Echo>, occasion: Occasion, question: u32) -> u32 {
            self.pace.ask(batches, &ALONE, &self.bell, occasion, question).await
        }
    }

    fn calls(batches: &Batches<Echo>) -> Vec<Vec<u32>> {
        std::mem::take(&mut batches.asker().calls.lock().unwrap())
    }

    #[tokio::test]
    async fn whoever_heard_a_bell_waits_for_no_other_project() {
        let batches = echo(0);
        let mut askers: [Asker; 4] = Default::default();
        let [first, second, third, rung] = &mut askers;
        let mut first = pin!(first.ask(&batches, Occasion::Time, 1));
        let mut second = pin!(second.ask(&batches, Occasion::Time, 2));
        let mut third = pin!(third.ask(&batches, Occasion::Time, 3));
        let mut rung = pin!(rung.ask(&batches, Occasion::Bell, 4));
        assert!(poll!(&mut first).is_pending() && poll!(&mut second).is_pending() && poll!(&mut third).is_pending());
        assert!(poll!(&mut rung).is_pending());
        assert_eq!(calls(&batches), [[1], [4]], "two wait for the first, and whoever heard a bell does not");
        batches.asker().gate.add_permits(3);
        assert_eq!((first.await, rung.await), (1, 4));
        assert_eq!(join(second, third).await, (2, 3));
        assert_eq!(calls(&batches), [[2, 3]]);
    }

    #[tokio::test]
    async fn whoever_hears_a_bell_while_others_are_asked_for_waits_no_longer() {
        let batches = echo(0);
        let (mut first, mut waits) = (Asker::default(), Asker::default());
        let bell = Arc::new(std::mem::take(&mut waits.bell));
        let alone = Semaphore::new(1);
        let mut first = pin!(first.ask(&batches, Occasion::Time, 1));
        let mut waits = pin!(waits.pace.ask(&batches, &alone, &bell, Occasion::Time, 2));
        assert!(poll!(&mut first).is_pending() && poll!(&mut waits).is_pending());
        bell.ring();
        assert!(poll!(&mut waits).is_pending());
        assert_eq!(calls(&batches), [[1], [2]]);
        batches.asker().gate.add_permits(2);
        assert_eq!((waits.await, first.await), (2, 1));
        assert!(poll!(pin!(bell.wait())).is_ready() && bell.has_rung(), "it is looked again for what it rang for");
        assert_eq!(calls(&batches), [[0; 0]; 0], "nobody is asked for who asked alone");
    }

    #[tokio::test]
    async fn a_project_of_which_the_answer_takes_long_soon_keeps_no_others_waiting() {
        let batches = echo(100);
        let mut askers: [Asker; 4] = Default::default();
        let mut asked = Vec::new();
        for _ in 0..3 {
            let projects = askers.iter_mut().zip([1, 13, 2, 3]);
            let told = join_all(projects.map(|(asker, project)| asker.ask(&batches, Occasion::Time, project))).await;
            assert_eq!(told, [1, 13, 2, 3]);
            asked.push(calls(&batches));
        }
        assert_eq!(asked[0], [vec![1], vec![13, 2, 3]], "nobody knows of it");
        assert_eq!(asked[1], [[1], [13], [2], [3]], "who was asked for with it asks alone once");
        assert_eq!(asked[2], [vec![1], vec![13], vec![2, 3]], "and together again");
        let is_slow = askers.map(|asker| asker.pace.is_slow);
        assert_eq!(is_slow, [false, true, false, false]);
    }

    #[tokio::test]
    async fn projects_of_which_answers_take_long_share_a_part_of_the_connections() {
        let (batches, alone) = (echo(0), Semaphore::new(1));
        let slow = || Asker { pace: Pace { is_slow: true }, bell: Bell::default() };
        let (mut one, mut other, mut rung) = (slow(), slow(), slow());
        let mut one = pin!(one.pace.ask(&batches, &alone, &one.bell, Occasion::Time, 1));
        let mut other = pin!(other.pace.ask(&batches, &alone, &other.bell, Occasion::Time, 2));
        let mut rung = pin!(rung.pace.ask(&batches, &alone, &rung.bell, Occasion::Bell, 3));
        assert!(poll!(&mut one).is_pending() && poll!(&mut other).is_pending() && poll!(&mut rung).is_pending());
        assert_eq!(calls(&batches), [[1], [3]], "the other one waits until the first is answered, and nobody who heard a bell");
        batches.asker().gate.add_permits(3);
        assert_eq!((one.await, other.await, rung.await), (1, 2, 3));
        assert_eq!(calls(&batches), [[2]]);
    }

    #[test]
    fn all_projects_look_again_at_once_and_servers_at_different_times() {
        let (here, there, now) = (Looks::default(), Looks::default(), Instant::now());
        let next = here.next(now);
        assert!((LOOK_AGAIN..=2 * LOOK_AGAIN).contains(&(next - now)), "{:?}", next - now);
        assert_eq!(here.next(now + LOOK_AGAIN / 2), next, "another project looks when this one does");
        assert_ne!(there.next(now), next, "another server at another time");
        let after = here.next(next);
        assert!((LOOK_AGAIN..=2 * LOOK_AGAIN).contains(&(after - next)), "{:?}", after - next);
        assert_eq!(here.next(next), after, "and so does each after that");
    }
}
