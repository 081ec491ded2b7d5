//! What the thread that writes does: it links lines into the chain and adds them to the day's file.

use std::{
    collections::HashSet,
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, atomic::Ordering},
    thread::sleep,
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::{
    Tally,
    chain::{Anchor, Head, Seal, append, hex},
    event::{Category, Event, Kind, Outcome},
    files::{Name, Place, append_to, begins_as_named, list, make_folder},
};

/// How many bytes are written together at most.
const BATCH: usize = 256 * 1024;

/// How long the first of them waits for others, on this thread of the log's own, where no request waits: to wake a thread and to write cost more than to
/// make a line.
const GATHERING: Duration = Duration::from_millis(5);

/// Writes lines. What is wrong with the disk is counted and logged here, since nobody waits to be told.
pub(super) struct Writer {
    folder: PathBuf,
    seal: Seal,
    /// Of how many days files are kept; of all if that is 0.
    kept_days: usize,
    tally: Arc<Tally>,
    clock: Box<dyn Fn() -> DateTime<Utc> + Send>,
    disk: Disk,
    place: Option<Place>,
    file: Option<Opened>,
    /// Whether that is another file than when it was looked at last for old ones.
    has_turned: bool,
    /// Events that are not written yet.
    batch: Vec<Vec<u8>>,
    bytes: usize,
    /// Of how many lost lines the log tells.
    told_lost: u64,
}

/// What a disk may refuse, and do halfway.
struct Disk {
    add: Box<Add>,
    cut: Box<Cut>,
}

type Add = dyn Fn(&mut File, &[u8]) -> io::Result<()> + Send;
type Cut = dyn Fn(&File, u64) -> io::Result<()> + Send;

impl Default for Disk {
    fn default() -> Self {
        Self { add: Box::new(|file, lines| file.write_all(lines)), cut: Box::new(File::set_len) }
    }
}

struct Opened {
    file: File,
    name: Name,
    /// Up to where it consists of whole lines.
    length: u64,
    /// Whether there may be something else behind that. Then nothing is written before it was cut off.
    is_torn: bool,
}

impl Writer {
    pub(super) fn new(folder: &Path, seal: Seal, kept_days: usize, tally: Arc<Tally>) -> Self {
        let (folder, clock) = (folder.to_owned(), Box::new(Utc::now));
        Self {
            folder,
            seal,
            kept_days,
            tally,
            clock,
            disk: Disk::default(),
            place: None,
            file: None,
            has_turned: false,
            batch: Vec::new(),
            bytes: 0,
            told_lost: 0,
        }
    }

    #[cfg(test)]
    pub(super) fn set_clock(&mut self, clock: impl Fn() -> DateTime<Utc> + Send + 'static) {
        self.clock = Box::new(clock);
    }

    /// Takes a chain, and looks whether it can be written.
    pub(super) fn open(&mut self) -> io::Result<()> {
        if self.place.is_none() {
            self.place = Some(Place::take(&self.folder, &self.seal)?);
        }
        self.opened().map(drop)
    }

    /// The file of today, whole. One that somebody has taken away is made again: the gap will be found.
    fn opened(&mut self) -> io::Result<&mut Opened> {
        let place = self.place.as_mut().ok_or(io::ErrorKind::NotFound)?;
        if let Some(opened) = &mut self.file {
            // Before anything else, also on the next day: what is behind the last whole line must not stay there.
            opened.mend(&self.folder, &self.disk)?;
        }
        let today = (self.clock)().date_naive();
        let is_good = |opened: &Opened| opened.name.date == today && opened.file.metadata().is_ok_and(|file| file.nlink() > 0);
        let before = match self.file.take() {
            Some(opened) if is_good(&opened) => return Ok(self.file.insert(opened)),
            before => before,
        };
        if let Some(before) = &before {
            // Whether or not the disk takes it now, there is nothing that could be done about it.
            let _ = before.file.sync_data();
        }
        let last = before.map(|opened| opened.name).or_else(|| place.last.clone());
        let name = Name { chain: place.chain.clone(), date: today, first: place.head.line + 1 };
        let name = last.filter(|last| last.date == today).unwrap_or(name);
        make_folder(&self.folder)?;
        let (file, length) = append_to(&name.in_folder(&self.folder))?;
        // Whoever keeps the log elsewhere can tell by this whether what was there still is.
        tracing::info!(head = %anchor(place), "the audit log goes on from this line");
        self.has_turned = true;
        Ok(self.file.insert(Opened { file, name, length, is_torn: false }))
    }

    fn write_batch(&mut self) -> io::Result<()> {
        self.open()?;
        let lost = self.tally.lost();
        let old = self.old_files();
        let Some(place) = &self.place else { return Err(io::ErrorKind::NotFound.into()) };
        let of_log = |action, outcome| Event::new(action, Category::Process, Kind::Info, outcome);
        let mut own = Vec::new();
        if place.torn_bytes > 0 {
            own.push(Event { torn_bytes: Some(place.torn_bytes), ..of_log("audit_log_mended", Outcome::Success) });
        }
        if lost > self.told_lost {
            own.push(Event { lost: Some(lost - self.told_lost), ..of_log("audit_lines_lost", Outcome::Failure) });
        }
        if let Some((_, removed_to)) = &old {
            own.push(Event { removed_to: Some(*removed_to), kind: [Kind::Deletion], ..of_log("audit_files_removed", Outcome::Success) });
        }
        let own: Vec<Vec<u8>> = own.iter().map(|event| event.to_json((self.clock)())).collect();
        let (mut lines, mut head) = (Vec::with_capacity(2 * self.bytes), place.head);
        for event in own.iter().chain(&self.batch) {
            head = append(&mut lines, event, &place.chain, &head, &self.seal);
        }
        self.opened()?;
        let Some(opened) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        opened.add(&lines, &self.disk)?;
        // Only when it is recorded, whatever happens to the machine.
        let old = old.filter(|_| opened.file.sync_data().is_ok());
        self.told_lost = lost;
        self.has_turned = false;
        self.advance(head);
        // The lines are written, whatever becomes of this; it is tried again with the next.
        if let Some(Err(error)) = self.place.as_mut().map(Place::say_begun) {
            tracing::warn!(%error, "that the chain of the audit log was begun cannot be written into its lock: look at the folder's disk");
        }
        for name in old.into_iter().flat_map(|(names, _)| names) {
            if let Err(error) = fs::remove_file(name.in_folder(&self.folder)) {
                tracing::warn!(%error, file = %name.in_folder(&self.folder).display(), "an old file of the audit log cannot be removed");
                break;
            }
        }
        Ok(())
    }

    /// Files that need not be kept any more, the oldest first, and the last line in them. Days are counted from the file that is written now: whatever the clock
    /// says, files of as many days stay as there are to be. A file counts if it begins with the line after which it is named: others may have been put there so
    /// that older ones go.
    fn old_files(&self) -> Option<(Vec<Name>, u64)> {
        let chain = &self.place.as_ref().filter(|_| self.kept_days > 0 && self.has_turned)?.chain;
        let now = &self.file.as_ref()?.name;
        let mut files = list(&self.folder).ok()?.remove(chain)?;
        files.retain(|name| name.first < now.first && begins_as_named(&self.folder, name, &self.seal));
        files.dedup_by_key(|name| name.first);
        let (mut days, mut first_kept) = (HashSet::from([now.date]), now.first);
        while let Some(name) = files.pop_if(|name| days.contains(&name.date) || days.len() < self.kept_days) {
            days.insert(name.date);
            first_kept = name.first;
        }
        (!files.is_empty()).then(|| (files, first_kept - 1))
    }

    fn advance(&mut self, head: Head) {
        let Some(place) = &mut self.place else { return };
        (place.head, place.torn_bytes) = (head, 0);
        *self.tally.head.lock().unwrap_or_else(PoisonError::into_inner) = Some(anchor(place));
    }
}

fn anchor(place: &Place) -> Anchor {
    Anchor { chain: place.chain.clone(), line: place.head.line, hash: hex(&place.head.hash) }
}

impl Opened {
    /// Adds lines, all or none.
    fn add(&mut self, lines: &[u8], disk: &Disk) -> io::Result<()> {
        self.is_torn = true;
        (disk.add)(&mut self.file, lines)?;
        self.length += lines.len() as u64;
        self.is_torn = false;
        Ok(())
    }

    /// Cuts off what was left of lines that did not fit. As long as that fails it stays torn, up to the same length, and the file is opened anew each time: it
    /// may be the handle that is of no more use. If others have changed its length, that is so.
    fn mend(&mut self, folder: &Path, disk: &Disk) -> io::Result<()> {
        let found = self.file.metadata();
        // One that somebody has taken away is nobody's any more.
        self.is_torn &= found.as_ref().map_or(true, |file| file.nlink() > 0);
        if !self.is_torn {
            self.length = found.map_or(self.length, |file| file.len());
            return Ok(());
        }
        let (file, length) = append_to(&self.name.in_folder(folder))?;
        if length > self.length {
            (disk.cut)(&file, self.length)?;
        }
        (self.file, self.length, self.is_torn) = (file, length.min(self.length), false);
        Ok(())
    }
}

impl Write for Writer {
    /// Takes one event.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        if self.batch.is_empty() {
            sleep(GATHERING);
        }
        self.batch.push(event.to_vec());
        self.bytes += event.len();
        if self.bytes >= BATCH {
            self.flush()?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let count = self.batch.len() as u64;
        match self.write_batch() {
            Ok(()) => {
                self.tally.written.fetch_add(count, Ordering::Relaxed);
                if self.tally.is_failing.swap(false, Ordering::Relaxed) {
                    tracing::warn!(lost = self.told_lost, "the audit log is written again");
                }
            }
            Err(error) => {
                if let Some(opened) = &mut self.file {
                    // What is left of a line is taken away now, or before the next line.
                    let _ = opened.mend(&self.folder, &self.disk);
                }
                self.tally.has_failed(count);
                if !self.tally.is_failing.swap(true, Ordering::Relaxed) {
                    tracing::error!(%error, folder = %self.folder.display(), "the audit log cannot be written: lines are lost");
                }
            }
        }
        self.batch.clear();
        self.bytes = 0;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some(opened) = &self.file {
            // There is nothing more to be done about it.
            let _ = opened.file.sync_data();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use tempfile::tempdir;

    use super::{
        super::verify::{Allowed, verify},
        *,
    };
    use crate::config::AuditFailure;

    /// A writer on a disk that takes half of what it is given, and cuts nothing off, while `is_broken` says so.
    fn on_a_bad_disk(folder: &Path, is_broken: &Arc<AtomicBool>) -> Writer {
        let mut writer = Writer::new(folder, Seal::new(""), 0, Arc::new(Tally::new(AuditFailure::Continue)));
        let (adds, cuts) = (is_broken.clone(), is_broken.clone());
        writer.disk = Disk {
            add: Box::new(move |file, lines| match adds.load(Ordering::Relaxed) {
                true => file.write_all(&lines[..lines.len() / 2]).and(Err(io::ErrorKind::StorageFull.into())),
                false => file.write_all(lines),
            }),
            cut: Box::new(move |file, length| match cuts.load(Ordering::Relaxed) {
                true => Err(io::Error::other("the disk cuts nothing off")),
                false => file.set_len(length),
            }),
        };
        writer
    }

    fn write(writer: &mut Writer, action: &str) {
        let event = Event::new(action, Category::Api, Kind::Info, Outcome::Success);
        writer.write_all(&event.to_json(Utc::now())).expect("it takes everything");
        writer.flush().expect("it swallows errors");
    }

    fn faults(folder: &Path) -> Vec<String> {
        verify(folder, &Seal::new(""), &[], Allowed::default()).expect("it can be read").faults
    }

    fn text(folder: &Path) -> String {
        let files = list(folder).expect("a folder").into_values().flatten();
        files.map(|name| fs::read_to_string(name.in_folder(folder)).expect("text")).collect()
    }

    /// Else the next line is glued to half a line, and the log is never whole again.
    #[test]
    fn half_a_line_that_cannot_be_cut_off_is_cut_off_before_the_next_line() {
        let (folder, is_broken) = (tempdir().expect("a folder"), Arc::new(AtomicBool::new(false)));
        let mut writer = on_a_bad_disk(folder.path(), &is_broken);
        write(&mut writer, "first");
        is_broken.store(true, Ordering::Relaxed);
        write(&mut writer, "lost");
        let torn = text(folder.path());
        assert!(!torn.ends_with('\n'), "half a line is there: {torn}");
        write(&mut writer, "lost");
        assert_eq!(text(folder.path()), torn, "expected nothing to be written behind half a line");
        is_broken.store(false, Ordering::Relaxed);
        write(&mut writer, "second");
        let text = text(folder.path());
        assert_eq!(faults(folder.path()), Vec::<String>::new(), "{text}");
        let actions = ["first", "lost", "audit_lines_lost", "second"].map(|action| text.matches(&format!(":\"{action}\"")).count());
        assert_eq!((actions, text.contains("\"whatsnext.audit.lost\":2")), ([1, 0, 1, 1], true), "{text}");
    }

    #[test]
    fn half_a_line_of_yesterday_is_cut_off_before_a_file_of_today_is_begun() {
        let (folder, is_broken) = (tempdir().expect("a folder"), Arc::new(AtomicBool::new(false)));
        let mut writer = on_a_bad_disk(folder.path(), &is_broken);
        let day = |writer: &mut Writer, day: u32| writer.set_clock(move || format!("2026-03-0{day}T12:00:00Z").parse().expect("a time"));
        day(&mut writer, 1);
        write(&mut writer, "first");
        is_broken.store(true, Ordering::Relaxed);
        write(&mut writer, "lost");
        day(&mut writer, 2);
        write(&mut writer, "lost");
        is_broken.store(false, Ordering::Relaxed);
        write(&mut writer, "second");
        assert_eq!(faults(folder.path()), Vec::<String>::new(), "{}", text(folder.path()));
    }

    /// The server ends before the disk is good again.
    #[test]
    fn half_a_line_is_cut_off_by_the_next_process_if_need_be() {
        let (folder, is_broken) = (tempdir().expect("a folder"), Arc::new(AtomicBool::new(false)));
        let mut writer = on_a_bad_disk(folder.path(), &is_broken);
        write(&mut writer, "first");
        is_broken.store(true, Ordering::Relaxed);
        write(&mut writer, "lost");
        drop(writer);
        is_broken.store(false, Ordering::Relaxed);
        write(&mut on_a_bad_disk(folder.path(), &is_broken), "second");
        assert_eq!(faults(folder.path()), Vec::<String>::new(), "{}", text(folder.path()));
    }
}
