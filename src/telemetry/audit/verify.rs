//! Looking whether an audit log is whole.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::Path,
};

use super::{
    chain::{Anchor, Head, Link, Seal, hex, is_keyed},
    files::{LONGEST, Name, is_begun, is_being_written, list, lock_file, taken_away},
};

/// What was found.
#[derive(Debug, Default)]
pub struct Report {
    /// The chains, in the order of their names.
    pub chains: Vec<Chain>,
    /// What is wrong, each with file and line.
    pub faults: Vec<String>,
    /// What is not wrong, but should be known.
    pub notes: Vec<String>,
}

/// A chain.
#[derive(Debug)]
pub struct Chain {
    /// Its first line here; 0 if it has none.
    pub first: u64,
    /// Its last line.
    pub last: Anchor,
    /// In how many files it is.
    pub files: usize,
}

/// What is not wrong because it was done on purpose.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// The oldest files were taken away: the first line that is there may be any.
    pub pruned: bool,
    /// There are chains from before there was a key. Whoever can write in the folder can make such a chain up.
    pub unsealed: bool,
}

/// How often it is looked from the start again because a file was removed meanwhile.
const AGAIN: usize = 3;

/// Looks at all chains in a folder. `known` are lines that must be there as they are said to have been.
///
/// # Errors
///
/// Those of reading the folder and its files.
pub fn verify(folder: &Path, seal: &Seal, known: &[Anchor], allowed: Allowed) -> io::Result<Report> {
    for _ in 0..AGAIN {
        match look(folder, seal, known, allowed) {
            // Servers remove their old files, and say so in what is not read yet.
            Err(error) if error.kind() == io::ErrorKind::NotFound && folder.is_dir() => {}
            looked => return looked,
        }
    }
    look(folder, seal, known, allowed)
}

fn look(folder: &Path, seal: &Seal, known: &[Anchor], allowed: Allowed) -> io::Result<Report> {
    let (mut report, mut unread) = (Report::default(), Vec::new());
    for (chain, files) in list(folder)? {
        let is_keyed = is_keyed(&chain);
        if is_keyed && !(seal.is_keyed() && seal.is_of(&chain)) {
            let what = "its lines are sealed with a key that was not given, so nothing is known of them: give it with --key-file";
            report.faults.push(format!("chain {chain}: {what}"));
            unread.push(chain);
            continue;
        }
        if seal.is_keyed() && !is_keyed && !allowed.unsealed {
            report.faults.push(format!("chain {chain}: its lines are not sealed with the key, so anybody may have written them"));
        }
        let seal = if is_keyed { seal.clone() } else { Seal::new("") };
        let reader = Reader { folder, chain: &chain, seal, known, head: None, first: 0, missing: None, runs: false, report: &mut report };
        reader.read(&files, allowed.pruned)?;
    }
    for chain in taken_away(folder)? {
        let lock = lock_file(folder, &chain);
        let what = format!("chain {chain}: all of its files were taken away (if that was on purpose, remove {} too)", lock.display());
        report.faults.push(what);
    }
    for anchor in known.iter().filter(|anchor| !unread.contains(&anchor.chain)) {
        let chain = report.chains.iter().find(|chain| chain.last.chain == anchor.chain);
        if chain.is_none_or(|chain| chain.last.line < anchor.line) {
            report.faults.push(format!("chain {}: line {} is known to have been there, and is not", anchor.chain, anchor.line));
        }
        // Of what was removed before that, nothing tells whether it was the same chain.
        if let Some(chain) = chain.filter(|chain| anchor.line + 1 < chain.first && !allowed.pruned) {
            let what = "and was removed with what follows it (if that was on purpose, say so with --pruned, or give a later line)";
            report.faults.push(format!("chain {}: line {} is known to have been there, {what}", chain.last.chain, anchor.line));
        }
    }
    if seal.is_keyed() && !report.chains.iter().any(|chain| seal.is_of(&chain.last.chain)) {
        report.faults.push("nothing here is sealed with the key that was given".to_owned());
    }
    Ok(report)
}

struct Reader<'a> {
    folder: &'a Path,
    chain: &'a str,
    seal: Seal,
    known: &'a [Anchor],
    /// The line that was read last.
    head: Option<Head>,
    first: u64,
    /// How many lines are missing before the first, and the place of that, as long as nothing tells that they were removed on purpose.
    missing: Option<(u64, String)>,
    /// Whether the last server that said that it begins has not said that it ends.
    runs: bool,
    report: &'a mut Report,
}

impl Reader<'_> {
    fn read(mut self, files: &[Name], is_pruned: bool) -> io::Result<()> {
        for (number, name) in files.iter().enumerate() {
            self.file(name, number + 1 == files.len())?;
        }
        if let Some((count, place)) = self.missing.take_if(|_| !is_pruned) {
            let lines = if count == 1 { "line 1 is".to_owned() } else { format!("lines 1 to {count} are") };
            self.fault(&place, &format!("{lines} missing before it"));
        }
        if self.head.is_none() && is_begun(self.folder, self.chain) {
            self.report.faults.push(format!("chain {}: all of its lines were taken away", self.chain));
        }
        let head = self.head.unwrap_or(Head::NONE);
        let last = Anchor { chain: self.chain.to_owned(), line: head.line, hash: hex(&head.hash) };
        self.report.chains.push(Chain { first: self.first, last, files: files.len() });
        Ok(())
    }

    fn file(&mut self, name: &Name, is_last: bool) -> io::Result<()> {
        let path = name.in_folder(self.folder);
        let mut file = BufReader::new(File::open(&path)?);
        let mut line = Vec::new();
        for number in 1.. {
            line.clear();
            if (&mut file).take(LONGEST).read_until(b'\n', &mut line)? == 0 {
                break;
            }
            let place = format!("{}:{number}", path.display());
            match line.strip_suffix(b"\n") {
                Some(line) => self.line(line, &place),
                // Somebody is at it.
                None if is_last && is_being_written(self.folder, self.chain) => break,
                None => {
                    self.fault(&place, "it ends in the middle of a line, or is too long: it was cut");
                    break;
                }
            }
        }
        Ok(())
    }

    fn line(&mut self, text: &[u8], place: &str) {
        let Some(link) = Link::parse(text, &self.seal) else {
            return self.fault(place, "this is no line of an audit log: it was changed");
        };
        if !link.is_whole {
            self.fault(place, "it is not as it was written: it was changed");
        }
        if link.chain != self.chain {
            self.fault(place, &format!("it belongs to chain {}", link.chain));
        }
        let head = match self.head {
            Some(head) => head,
            None if link.line <= 1 => Head::NONE,
            None => {
                self.missing = Some((link.line - 1, place.to_owned()));
                let before = Head { line: link.line - 1, hash: link.previous };
                if self.is_known_otherwise(&before) {
                    self.fault(place, "the line before it is known to have been another one than it says");
                }
                before
            }
        };
        let next = head.line + 1;
        match link.line {
            line if line == next && link.previous == head.hash => {}
            line if line == next => {
                self.fault(place, &format!("the line before it, number {}, is another one than when it was written", head.line))
            }
            line if line == next + 1 => self.fault(place, &format!("line {next} is missing before it")),
            line if line > next => self.fault(place, &format!("lines {next} to {} are missing before it", line - 1)),
            line => self.fault(place, &format!("it is line {line}, and line {next} should be here: it was moved, or lines are missing")),
        }
        if self.is_known_otherwise(&Head { line: link.line, hash: link.hash }) {
            self.fault(place, "it is known to have been another line");
        }
        if let Some(removed) = link.removed_to.filter(|_| link.is_whole)
            && let Some((count, _)) = self.missing.take_if(|(count, _)| *count <= removed)
        {
            self.report.notes.push(format!("{place}: lines 1 to {count} were removed when they had been kept for long enough"));
        }
        match link.action.as_str() {
            STARTED if std::mem::replace(&mut self.runs, true) => {
                let note = "the server before this one has not said that it ends: it was killed, or its last lines are missing";
                self.report.notes.push(format!("{place}: {note}"));
            }
            STOPPED => self.runs = false,
            _ => {}
        }
        if self.first == 0 {
            self.first = link.line;
        }
        if link.line >= next {
            self.head = Some(Head { line: link.line, hash: link.hash });
        }
    }

    fn is_known_otherwise(&self, head: &Head) -> bool {
        let mut known = self.known.iter().filter(|anchor| anchor.chain == self.chain && anchor.line == head.line);
        known.any(|anchor| anchor.hash != hex(&head.hash))
    }

    fn fault(&mut self, place: &str, what: &str) {
        self.report.faults.push(format!("{place}: {what}"));
    }
}

/// What a server says first.
pub const STARTED: &str = "server_started";

/// What a server says last.
pub const STOPPED: &str = "server_stopped";
