//! What limiting costs, and what it is worth: ours beside the three usual ways, in one run on one Redis.
//!
//! `WHATSNEXT_TEST_REDIS_URL` says where Redis is; `deploy/bench.sh` starts one. Prints tables in Markdown. Load generator and Redis share the machine,
//! so read ratios rather than numbers. All are measured in turns, so that whatever disturbs one disturbs the others.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "this is a benchmark")]

use std::time::{Duration, Instant};

use redis::{Client, Cmd, Script, aio::MultiplexedConnection, cmd};

const WINDOW: &str = include_str!("../src/limits/window.lua");
const ADMIT: &str = include_str!("../src/limits/admit.lua");
const BY_CLOCK: &str = include_str!("limits/by_clock.lua");
const ADVERSARY: &str = include_str!("limits/adversary.lua");

/// How long it is one way's turn, before it is another's.
const TURN: Duration = Duration::from_millis(90);

/// How many turns make a figure.
const TURNS: u32 = 8;

/// How many figures there are in a cell.
const REPEATS: usize = 3;

/// How many clients there are, each with a window of its own.
const SUBJECTS: usize = 1_000;

/// How many ask at once, one question at a time each.
const TASKS: usize = 50;

/// How many questions are sent together on the one connection.
const PIPELINE: usize = 16;

/// A way to limit.
struct Way {
    name: &'static str,
    /// Decides at Redis's time.
    hash: String,
    /// Defines `admit(key, limit, length, now)`.
    lua: String,
    call: Call,
}

/// How its script is called.
#[derive(Clone, Copy)]
enum Call {
    Plain,
    Ours,
    OursWithRecord,
    /// Of [`PIPELINE`] clients in one call, as a server does when it has much to do.
    OursInBatches,
}

/// What is asked: many windows of which none is ever full, of which all are full, and which are emptied about as fast as they are filled.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    limit: u32,
    length_ms: u64,
    subjects: usize,
    filled: bool,
}

const CASES: [Case; 3] = [
    Case { name: "admitted", limit: 1_000_000, length_ms: 600_000, subjects: SUBJECTS, filled: false },
    Case { name: "refused", limit: 100, length_ms: 60_000_000, subjects: SUBJECTS, filled: true },
    Case { name: "at the edge", limit: 50, length_ms: 100, subjects: 50, filled: true },
];

#[tokio::main]
async fn main() {
    let url = std::env::var("WHATSNEXT_TEST_REDIS_URL").expect("WHATSNEXT_TEST_REDIS_URL says where Redis is");
    let client = Client::open(url).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let mut ways = Vec::new();
    for (name, lua, call) in [
        ("ours", format!("{WINDOW}{}", include_str!("limits/ours.lua")), Call::Ours),
        ("ours, with the key's record", String::new(), Call::OursWithRecord),
        ("the same of 16 keys in one call", String::new(), Call::OursInBatches),
        ("sorted set", include_str!("limits/zset.lua").to_owned(), Call::Plain),
        ("GCRA", include_str!("limits/gcra.lua").to_owned(), Call::Plain),
        ("two counters", include_str!("limits/counters.lua").to_owned(), Call::Plain),
    ] {
        let script = Script::new(&if matches!(call, Call::Plain) { format!("{lua}{BY_CLOCK}") } else { format!("{WINDOW}{ADMIT}") });
        let hash = script.load_async(&mut connection).await.unwrap();
        ways.push(Way { name, hash, lua, call });
    }
    speed(&client, &mut connection, &ways).await;
    bytes(&mut connection, &ways).await;
    worth(&mut connection, &ways).await;
    clear(&mut connection).await;
}

impl Way {
    fn key(&self, subject: usize) -> String {
        format!("bench:{{{subject}}}:w:{}", self.name)
    }

    /// How many are asked about in one call.
    fn batch(&self) -> usize {
        if matches!(self.call, Call::OursInBatches) { PIPELINE } else { 1 }
    }

    /// The call that comes after so many questions, of the clients whose turn is then.
    fn next(&self, asked: usize, case: Case) -> Cmd {
        let subjects: Vec<usize> = (asked..asked + self.batch()).map(|n| n * 7 % case.subjects).collect();
        self.ask(&subjects, case.limit, case.length_ms)
    }

    /// Asks about these clients in one call; ways other than ours ask about one.
    fn ask(&self, subjects: &[usize], limit: u32, length_ms: u64) -> Cmd {
        let has_record = matches!(self.call, Call::OursWithRecord | Call::OursInBatches);
        let mut call = cmd("EVALSHA");
        call.arg(&self.hash).arg(subjects.len() * if has_record { 2 } else { 1 });
        for subject in subjects {
            if has_record {
                call.arg(format!("bench:{{{subject}}}:record"));
            }
            call.arg(self.key(*subject));
        }
        for _ in subjects {
            if !matches!(self.call, Call::Plain) {
                call.arg(1).arg(if has_record { "7" } else { "" }).arg("").arg(1);
            }
            call.arg(limit).arg(length_ms);
            if !matches!(self.call, Call::Plain) {
                call.arg(1).arg(u8::from(has_record));
            }
        }
        call
    }
}

async fn clear(connection: &mut MultiplexedConnection) {
    loop {
        let (_, keys): (u64, Vec<String>) =
            cmd("SCAN").arg(0).arg("MATCH").arg("bench:*").arg("COUNT").arg(1_000_000).query_async(connection).await.unwrap();
        if keys.is_empty() {
            return;
        }
        cmd("DEL").arg(keys).exec_async(connection).await.unwrap();
    }
}

async fn records(connection: &mut MultiplexedConnection) {
    for subject in 0..SUBJECTS {
        let record = format!("bench:{{{subject}}}:record");
        let fields = ["version", "7", "expires_at_ms", "9999999999999", "hash", "x", "owner", "somebody", "scopes", "read submit"];
        cmd("HSET").arg(record).arg(&fields).exec_async(connection).await.unwrap();
    }
}

/// Asks many times, many questions together.
async fn fill(connection: &mut MultiplexedConnection, way: &Way, subject: usize, limit: u32, length_ms: u64) {
    let mut left = limit as usize;
    while left > 0 {
        let mut pipe = redis::pipe();
        for _ in 0..left.min(1_000) {
            pipe.add_command(way.ask(&[subject], limit, length_ms));
        }
        left -= left.min(1_000);
        pipe.exec_async(connection).await.unwrap();
    }
}

async fn speed(client: &Client, connection: &mut MultiplexedConnection, ways: &[Way]) {
    println!("Decisions a second, three times each; in brackets the part that was admitted.\n");
    println!("| | {} |", ways.iter().map(|way| way.name).collect::<Vec<_>>().join(" | "));
    println!("| --- |{}", " --- |".repeat(ways.len()));
    let connect = (0..TASKS).map(|_| client.get_multiplexed_async_connection());
    let connections = futures_util::future::try_join_all(connect).await.unwrap();
    for case in CASES {
        for pipelined in [true, false] {
            clear(connection).await;
            records(connection).await;
            if case.filled {
                for way in ways {
                    for subject in 0..case.subjects {
                        fill(connection, way, subject, case.limit, case.length_ms).await;
                    }
                }
            }
            let mut cells = vec![String::new(); ways.len()];
            let mut parts = vec![(0, 0); ways.len()];
            for _ in 0..REPEATS {
                let mut turns = vec![(0, Duration::ZERO); ways.len()];
                for _ in 0..TURNS {
                    for (way, (turn, part)) in ways.iter().zip(turns.iter_mut().zip(&mut parts)) {
                        let start = Instant::now();
                        let (asked, admitted) = match pipelined {
                            true => in_pipelines(connection, way, case).await,
                            false => one_at_a_time(&connections, way, case).await,
                        };
                        *turn = (turn.0 + asked, turn.1 + start.elapsed());
                        *part = (part.0 + asked, part.1 + admitted);
                    }
                }
                for ((asked, time), cell) in turns.into_iter().zip(&mut cells) {
                    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
                    cell.push_str(&format!("{:.0}k ", asked as f64 / time.as_secs_f64() / 1_000.0));
                }
            }
            for (way, (asked, yes)) in ways.iter().zip(&parts) {
                assert!(case.filled || yes == asked, "{}: of {asked} all should be admitted, {yes} were", way.name);
            }
            let how = if pipelined { format!("{PIPELINE} together") } else { format!("{TASKS} at once") };
            let cells: Vec<String> =
                cells.iter().zip(parts).map(|(cell, (asked, yes))| format!("{cell}({} %)", yes * 100 / asked)).collect();
            println!("| {}, {how} | {} |", case.name, cells.join(" | "));
        }
    }
}

async fn in_pipelines(connection: &mut MultiplexedConnection, way: &Way, case: Case) -> (usize, usize) {
    let (start, mut asked, mut admitted) = (Instant::now(), 0, 0);
    while start.elapsed() < TURN {
        let mut pipe = redis::pipe();
        for i in (0..PIPELINE).step_by(way.batch()) {
            pipe.add_command(way.next(asked + i, case));
        }
        let answers: Vec<Vec<Vec<i64>>> = pipe.query_async(connection).await.unwrap();
        asked += PIPELINE;
        admitted += answers.iter().flatten().filter(|answer| answer[0] == 1).count();
    }
    (asked, admitted)
}

async fn one_at_a_time(connections: &[MultiplexedConnection], way: &Way, case: Case) -> (usize, usize) {
    let start = Instant::now();
    let tasks = connections.iter().cloned().enumerate().map(|(task, mut connection)| async move {
        let (mut asked, mut admitted) = (0, 0);
        while start.elapsed() < TURN {
            let question = way.next(asked + task * 31, case);
            let answers: Vec<Vec<i64>> = question.query_async(&mut connection).await.unwrap();
            asked += answers.len();
            admitted += answers.iter().filter(|answer| answer[0] == 1).count();
        }
        (asked, admitted)
    });
    let counts = futures_util::future::join_all(tasks).await;
    counts.into_iter().fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1))
}

async fn bytes(connection: &mut MultiplexedConnection, ways: &[Way]) {
    println!("\nBytes in Redis of one client whose window is full (`MEMORY USAGE`), and by the admission.\n");
    let ways: Vec<&Way> = ways.iter().filter(|way| matches!(way.call, Call::Plain | Call::Ours)).collect();
    println!("| limit | {} |", ways.iter().map(|way| way.name).collect::<Vec<_>>().join(" | "));
    println!("| --- |{}", " --- |".repeat(ways.len()));
    for limit in [100_u32, 1_000, 10_000] {
        clear(connection).await;
        let mut cells = Vec::new();
        for way in &ways {
            fill(connection, way, 0, limit, 60_000_000).await;
            let bytes: usize = cmd("MEMORY").arg("USAGE").arg(way.key(0)).arg("SAMPLES").arg(0).query_async(connection).await.unwrap();
            #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
            cells.push(format!("{bytes} ({:.2})", bytes as f64 / f64::from(limit)));
        }
        println!("| {limit} | {} |", cells.join(" | "));
    }
}

/// Somebody who asks as often as possible, but only now and then, at times drawn by lot: the most that was ever admitted within a length, as a multiple of
/// the limit; and how often a question was refused although less than the limit had been admitted within the last length.
async fn worth(connection: &mut MultiplexedConnection, ways: &[Way]) {
    const LIMIT: usize = 100;
    const LENGTH_MS: u64 = 1_000;
    const TRIALS: u64 = 150;
    println!("\nAn adversary's {TRIALS} tries at a limit of {LIMIT} in {LENGTH_MS} ms.\n");
    println!("| | most in any window ÷ limit | refused although there was room |\n| --- | --- | --- |");
    for way in ways.iter().filter(|way| matches!(way.call, Call::Plain | Call::Ours)) {
        let script = Script::new(&format!("{}{ADVERSARY}", way.lua));
        let (mut most, mut wrong, mut refused) = (0, 0_u64, 0_u64);
        let mut lot = 0x2545_f491_4f6c_dd1d_u64;
        let mut draw = |below: u64| {
            lot ^= lot << 13;
            lot ^= lot >> 7;
            lot ^= lot << 17;
            lot % below
        };
        for _ in 0..TRIALS {
            let mut now = 1_764_000_000_000 + draw(LENGTH_MS);
            let phases: Vec<(u64, u64)> = (0..5)
                .map(|_| {
                    let first = now + draw(LENGTH_MS * 3 / 2);
                    // Some of them short, which is as good as a burst.
                    let last = first + if draw(2) == 0 { draw(20) } else { draw(LENGTH_MS * 3 / 2) };
                    now = last + 1;
                    (first, last)
                })
                .collect();
            let mut call = script.key("bench:{adversary}");
            call.arg(LIMIT).arg(LENGTH_MS);
            for (first, last) in &phases {
                call.arg(first).arg(last);
            }
            let admitted: Vec<u64> = call.invoke_async(connection).await.unwrap();
            let inside = |end: u64| {
                let upto = admitted.partition_point(|then| *then <= end);
                upto - admitted.partition_point(|then| then + LENGTH_MS <= end)
            };
            most = admitted.iter().map(|end| inside(*end)).max().unwrap_or(0).max(most);
            for now in phases.iter().flat_map(|(first, last)| *first..=*last) {
                refused += 1;
                wrong += u64::from(inside(now) < LIMIT);
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let (most, wrong) = (most as f64 / LIMIT as f64, wrong as f64 * 100.0 / refused as f64);
        println!("| {} | {most:.2} | {wrong:.1} % |", way.name);
    }
}
