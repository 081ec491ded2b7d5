//! What there may be for those who wait. All projects of a server ask together, so few statements tell it, however many wait in however many projects.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::Head;
use crate::{
    coalesce::{Ask, Batches},
    postgres::{
        Database, Row,
        query::{Params, claims as sql},
    },
    queue::{Result, jobs::Resources},
};

/// How long it is not looked again without anybody ringing: from so long to twice as long.
const LOOK_AGAIN: Duration = Duration::from_millis(1000);

/// What is asked of the database for those who wait at this server.
pub(super) struct Outlook {
    heads: Batches<Heads>,
    rooms: Batches<Rooms>,
    looks: Looks,
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
        Self { heads: Batches::new(Heads(database.clone())), rooms: Batches::new(Rooms(database.clone())), looks: Looks::default() }
    }

    /// What each task's most urgent ready job needs, of those that need no more than this. Nothing while the database is away.
    pub(super) async fn heads(&self, project_id: i64, most: Resources) -> Arc<[Head]> {
        self.heads.ask(Largest { project_id, most }).await.1
    }

    /// What clients have left, and maybe others. Nothing while the database is away.
    pub(super) async fn room(&self, mut clients: Vec<String>) -> Arc<Room> {
        clients.sort_unstable();
        self.rooms.ask(clients).await.1
    }

    /// When it is looked again though nobody rang: in all projects at once, and at another time at each server.
    pub(super) fn next_look(&self) -> Instant {
        self.looks.next(Instant::now())
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
    type Answer = Arc<[Head]>;
    type Place = ();

    const MOST: usize = 1024;

    fn place(&self, _: &Self::Question) {}

    async fn ask(&self, questions: &[(Arc<Largest>, usize)]) -> Vec<Arc<[Head]>> {
        let mut heads: Vec<Vec<Head>> = questions.iter().map(|_| Vec::new()).collect();
        for row in self.read(questions).await.unwrap_or_default() {
            let place = usize::try_from(row.get::<_, i64>("position") - 1).expect("it is the place of an array element");
            let needs = Resources { cpu: row.get("required_cpu"), accelerators: row.get("required_accelerators") };
            heads[place].push(Head { task_id: row.get("task_id"), needs });
        }
        heads.into_iter().map(Into::into).collect()
    }
}

impl Heads {
    async fn read(&self, questions: &[(Arc<Largest>, usize)]) -> Result<Vec<Row>> {
        let projects: Vec<i64> = questions.iter().map(|(question, _)| question.project_id).collect();
        let cpu: Vec<i32> = questions.iter().map(|(question, _)| question.most.cpu).collect();
        let accelerators: Vec<i32> = questions.iter().map(|(question, _)| question.most.accelerators).collect();
        let params: Params<'_> = &[&projects, &cpu, &accelerators];
        Ok(sql::HEADS.all(&self.0.client().await?, params).await?)
    }
}

impl Ask for Rooms {
    /// Clients.
    type Question = Vec<String>;
    type Answer = Arc<Room>;
    type Place = ();

    const MOST: usize = 1024;

    fn place(&self, _: &Self::Question) {}

    async fn ask(&self, questions: &[(Arc<Vec<String>>, usize)]) -> Vec<Arc<Room>> {
        let room = Arc::new(self.read(questions).await.unwrap_or_default());
        vec![room; questions.len()]
    }
}

impl Rooms {
    async fn read(&self, questions: &[(Arc<Vec<String>>, usize)]) -> Result<Room> {
        let clients: HashSet<&str> = questions.iter().flat_map(|(clients, _)| clients.iter().map(String::as_str)).collect();
        let clients: Vec<&str> = clients.into_iter().collect();
        let rows = sql::ROOM.all(&self.0.client().await?, &[&clients]).await?;
        let left = |row: &Row, column: &str| row.get::<_, i64>(column).clamp(i32::MIN.into(), i32::MAX.into()) as i32;
        Ok(rows.iter().map(|row| (row.get("id"), Resources { cpu: left(row, "cpu"), accelerators: left(row, "accelerators") })).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
