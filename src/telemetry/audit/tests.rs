use std::{fs, io::Write as _, path::Path};

use chrono::{DateTime, Utc};
use tempfile::{TempDir, tempdir};

use super::{writer::Writer, *};

const DAY: &str = "2026-03-01T12:00:00Z";

fn writer(folder: &Path, seal: &Seal, now: &str) -> Writer {
    let now: DateTime<Utc> = now.parse().expect("a time");
    let mut writer = new_writer(folder, seal, 0);
    writer.set_clock(move || now);
    writer.open().expect("it can be written");
    writer
}

fn new_writer(folder: &Path, seal: &Seal, kept_days: usize) -> Writer {
    Writer::new(folder, seal.clone(), kept_days, Arc::new(Tally::new(AuditFailure::Continue)))
}

fn write(writer: &mut Writer, count: usize) {
    for number in 0..count {
        let event =
            Event { status: Some(u16::try_from(number).expect("few")), ..Event::new("x", Category::Api, Kind::Info, Outcome::Success) };
        writer.write_all(&event.to_json(Utc::now())).expect("it takes everything");
    }
    writer.flush().expect("it swallows errors");
}

fn faults(folder: &Path, seal: &Seal) -> Vec<String> {
    verify(folder, seal, &[], Allowed::default()).expect("it can be read").faults
}

/// A log of twenty lines in one file, and the file.
fn log(seal: &Seal) -> (TempDir, std::path::PathBuf) {
    let folder = tempdir().expect("a folder");
    write(&mut writer(folder.path(), seal, DAY), 20);
    assert_eq!(faults(folder.path(), seal), Vec::<String>::new());
    let [file] = files(folder.path(), "jsonl").try_into().expect("one file");
    (folder, file)
}

/// The files with this ending, in the order of their names.
fn files(folder: &Path, ending: &str) -> Vec<std::path::PathBuf> {
    let files = fs::read_dir(folder).expect("a folder").map(|file| file.expect("a file").path());
    let mut files: Vec<_> = files.filter(|file| file.extension().is_some_and(|end| end == ending)).collect();
    files.sort();
    files
}

#[test]
fn a_chain_goes_on_over_days_restarts_and_clocks_that_jump() {
    for seal in [Seal::new(""), Seal::new("key")] {
        let folder = tempdir().expect("a folder");
        for now in [DAY, DAY, "2026-03-02T00:00:00Z", "2199-01-01T00:00:00Z", "2026-03-01T00:00:00Z", "1970-01-01T00:00:00Z", DAY] {
            write(&mut writer(folder.path(), &seal, now), 3);
        }
        let report = verify(folder.path(), &seal, &[], Allowed::default()).expect("it can be read");
        assert_eq!(report.faults, Vec::<String>::new());
        let [chain] = report.chains.as_slice() else { panic!("expected one chain: {report:?}") };
        assert_eq!((chain.first, chain.last.line, chain.files), (1, 21, 6));
    }
}

#[test]
fn a_clock_that_jumps_while_a_server_runs_breaks_nothing() {
    let (folder, seal) = (tempdir().expect("a folder"), Seal::new(""));
    let mut writer = writer(folder.path(), &seal, DAY);
    for now in ["2026-03-02T00:00:00Z", "2026-02-01T00:00:00Z", "2026-03-02T00:00:00Z", DAY] {
        let now: DateTime<Utc> = now.parse().expect("a time");
        writer.set_clock(move || now);
        write(&mut writer, 2);
    }
    assert_eq!(faults(folder.path(), &seal), Vec::<String>::new());
}

#[test]
fn processes_that_share_a_folder_have_chains_of_their_own() {
    let (folder, seal) = (tempdir().expect("a folder"), Seal::new(""));
    let (mut one, mut two) = (writer(folder.path(), &seal, DAY), writer(folder.path(), &seal, DAY));
    for _ in 0..3 {
        write(&mut one, 2);
        write(&mut two, 1);
    }
    drop(one);
    write(&mut writer(folder.path(), &seal, DAY), 4);
    let report = verify(folder.path(), &seal, &[], Allowed::default()).expect("it can be read");
    assert_eq!(report.faults, Vec::<String>::new());
    let mut lines: Vec<u64> = report.chains.iter().map(|chain| chain.last.line).collect();
    lines.sort_unstable();
    assert_eq!(lines, [3, 10]);
}

#[test]
fn whatever_is_done_to_the_lines_is_found_where_it_was_done() {
    type Change = fn(&mut Vec<String>);
    let changes: [(&str, Change, &str, usize); 7] = [
        ("changed", |lines| lines[7] = lines[7].replace("\"success\"", "\"failure\""), "was changed", 8),
        ("garbage", |lines| lines[7] = "garbage".to_owned(), "is no line of an audit log", 8),
        ("missing", |lines| drop(lines.remove(7)), "line 8 is missing", 8),
        ("missing first", |lines| drop(lines.drain(..3)), "lines 1 to 3 are missing", 1),
        ("twice", |lines| lines.insert(8, lines[7].clone()), "it was moved", 9),
        ("swapped", |lines| lines.swap(7, 8), "it was moved", 9),
        ("inserted", |lines| lines.insert(7, lines[0].clone()), "it was moved", 8),
    ];
    for (name, change, expected, at) in changes {
        for seal in [Seal::new(""), Seal::new("key")] {
            let (folder, file) = log(&seal);
            let mut lines: Vec<String> = fs::read_to_string(&file).expect("text").lines().map(ToOwned::to_owned).collect();
            change(&mut lines);
            fs::write(&file, lines.join("\n") + "\n").expect("it is written");
            let faults = faults(folder.path(), &seal);
            let place = format!("{}:{at}: ", file.display());
            assert!(faults.iter().any(|fault| fault.starts_with(&place) && fault.contains(expected)), "{name}: {faults:#?}");
        }
    }
}

#[test]
fn who_computes_the_hashes_anew_is_found_by_the_key_or_by_a_hash_that_was_kept() {
    // What somebody can do who knows everything but the key: change a line and all that follow.
    let forge = |file: &Path, seal: &Seal| {
        let text = fs::read_to_string(file).expect("text");
        let mut lines = Vec::new();
        let mut head = chain::Head::NONE;
        for line in text.lines() {
            let event = line.split(",\"whatsnext.audit.chain\"").next().expect("an event").replace("\"success\"", "\"failure\"");
            let name =
                file.file_name().and_then(|name| name.to_str()).and_then(|name| name["audit-".len()..].split('.').next()).expect("a chain");
            head = chain::append(&mut lines, format!("{event}}}").as_bytes(), name, &head, seal);
        }
        fs::write(file, lines).expect("it is written");
    };
    let (folder, file) = log(&Seal::new(""));
    let kept = verify(folder.path(), &Seal::new(""), &[], Allowed::default()).expect("it can be read").chains.remove(0).last;
    forge(&file, &Seal::new(""));
    assert_eq!(faults(folder.path(), &Seal::new("")), Vec::<String>::new(), "without a key nothing shows");
    let known = verify(folder.path(), &Seal::new(""), &[kept], Allowed::default()).expect("it can be read").faults;
    assert!(known.len() == 1 && known[0].contains("known to have been another line"), "{known:?}");

    let keyed = Seal::new("key");
    let (folder, file) = log(&keyed);
    forge(&file, &Seal::new("guessed"));
    assert!(faults(folder.path(), &keyed).len() >= 20);
    let without = faults(folder.path(), &Seal::new(""));
    assert!(without.len() == 1 && without[0].contains("a key that was not given"), "{without:?}");
    let (folder, _) = log(&Seal::new(""));
    assert!(faults(folder.path(), &keyed).concat().contains("nothing here is sealed with the key"), "a chain without a key in its place");
}

/// Nobody has looked for its lines, so nobody says that they are gone.
#[test]
fn of_a_chain_whose_key_was_not_given_it_is_said_what_to_do_and_nothing_else() {
    let (folder, _) = log(&Seal::new("key"));
    let kept = verify(folder.path(), &Seal::new("key"), &[], Allowed::default()).expect("it can be read").chains.remove(0).last;
    let found =
        |seal: Seal, known: &[chain::Anchor]| verify(folder.path(), &seal, known, Allowed::default()).expect("it can be read").faults;
    let key = "its lines are sealed with a key that was not given, so nothing is known of them: give it with --key-file";
    let expected = format!("chain {}: {key}", kept.chain);
    assert_eq!(found(Seal::new(""), std::slice::from_ref(&kept)), std::slice::from_ref(&expected));
    let another = "nothing here is sealed with the key that was given".to_owned();
    assert_eq!(found(Seal::new("other"), std::slice::from_ref(&kept)), [expected, another]);
    // Of another chain than that it is known that it is not there.
    let gone = chain::Anchor { chain: format!("{}0", kept.chain), ..kept };
    assert!(found(Seal::new(""), &[gone])[1].contains("line 20 is known to have been there, and is not"));
}

#[test]
fn lines_cut_off_at_the_end_are_found_by_a_hash_that_was_kept_and_half_a_line_at_once() {
    let seal = Seal::new("");
    let (folder, file) = log(&seal);
    let kept = verify(folder.path(), &seal, &[], Allowed::default()).expect("it can be read").chains.remove(0).last;
    let text = fs::read_to_string(&file).expect("text");
    fs::write(&file, &text[..text.len() - 40]).expect("it is written");
    let half = faults(folder.path(), &seal);
    assert!(half.len() == 1 && half[0].contains(".jsonl:20: it ends in the middle of a line"), "{half:?}");

    // The next one cuts the half line off, says so, and goes on.
    write(&mut writer(folder.path(), &seal, DAY), 1);
    assert_eq!(faults(folder.path(), &seal), Vec::<String>::new());
    let mended = fs::read_to_string(&file).expect("text");
    assert!(mended.contains("audit_log_mended") && mended.contains("\"whatsnext.audit.torn_bytes\":"), "{mended}");
    let known = verify(folder.path(), &seal, &[kept], Allowed::default()).expect("it can be read").faults;
    assert_eq!(known.len(), 1, "{known:?}");

    let (folder, file) = log(&seal);
    let kept = verify(folder.path(), &seal, &[], Allowed::default()).expect("it can be read").chains.remove(0).last;
    let lines: Vec<String> = fs::read_to_string(&file).expect("text").lines().take(15).map(|line| format!("{line}\n")).collect();
    fs::write(&file, lines.concat()).expect("it is written");
    assert_eq!(faults(folder.path(), &seal), Vec::<String>::new(), "nothing in the file tells of it");
    let known = verify(folder.path(), &seal, &[kept], Allowed::default()).expect("it can be read").faults;
    assert!(known.len() == 1 && known[0].contains("line 20 is known to have been there"), "{known:?}");
}

#[test]
fn a_file_that_is_taken_away_shows_whether_or_not_a_server_runs() {
    let seal = Seal::new("");
    let (folder, file) = log(&seal);
    let mut writer = writer(folder.path(), &seal, "2026-03-02T00:00:00Z");
    write(&mut writer, 3);
    fs::remove_file(file).expect("it is there");
    assert!(faults(folder.path(), &seal).concat().contains("lines 1 to 20 are missing before it"));
    let pruned = verify(folder.path(), &seal, &[], Allowed { pruned: true, ..Allowed::default() }).expect("it can be read");
    assert_eq!((pruned.faults, pruned.chains[0].first), (Vec::new(), 21), "it may be on purpose");
    fs::remove_dir_all(folder.path()).expect("it is there");
    write(&mut writer, 1);
    assert!(faults(folder.path(), &seal).concat().contains("lines 1 to 23 are missing before it"));
}

#[test]
fn a_symbolic_link_in_place_of_a_file_is_not_followed() {
    let (folder, seal) = (tempdir().expect("a folder"), Seal::new(""));
    let elsewhere = folder.path().join("elsewhere");
    std::os::unix::fs::symlink(&elsewhere, folder.path().join("audit-1.2026-03-01.000000000001.jsonl")).expect("a link");
    let opened = || {
        let mut writer = new_writer(folder.path(), &seal, 0);
        writer.set_clock(|| DAY.parse().expect("a time"));
        writer.open()
    };
    opened().expect_err("it must not be written to");
    assert!(!elsewhere.exists());
    // Nor is anything cut off what is there, as it is from a line that was not finished.
    fs::write(&elsewhere, "something else\nthat does not end as a line").expect("it is written");
    opened().expect_err("it must not be written to");
    assert_eq!(fs::read_to_string(&elsewhere).expect("text"), "something else\nthat does not end as a line");
}

#[test]
fn what_is_no_audit_log_is_left_as_it_is() {
    let (folder, seal) = (tempdir().expect("a folder"), Seal::new(""));
    let file = folder.path().join("audit-1.2026-03-01.000000000001.jsonl");
    fs::write(&file, "something else\nthat does not end as a line").expect("it is written");
    write(&mut writer(folder.path(), &seal, DAY), 1);
    assert_eq!(fs::read_to_string(&file).expect("text"), "something else\nthat does not end as a line", "the next chain is used");
}

/// Otherwise whoever can write in the folder makes up a chain, and only its summary tells.
#[test]
fn with_a_key_chains_without_one_are_found() {
    let (folder, _) = log(&Seal::new(""));
    let key = Seal::new("key");
    write(&mut writer(folder.path(), &key, DAY), 2);
    let found = faults(folder.path(), &key);
    assert!(found.len() == 1 && found[0].contains("not sealed with the key"), "{found:?}");
    let allowed = Allowed { unsealed: true, ..Allowed::default() };
    assert_eq!(verify(folder.path(), &key, &[], allowed).expect("it can be read").faults, Vec::<String>::new());
}

#[test]
fn a_chain_of_which_nothing_is_left_is_found_and_not_begun_anew() {
    for seal in [Seal::new(""), Seal::new("key")] {
        let (folder, file) = log(&seal);
        let kept = verify(folder.path(), &seal, &[], Allowed::default()).expect("it can be read").chains.remove(0).last;
        fs::remove_file(file).expect("it is there");
        let gone = format!("chain {}: all of its files were taken away", kept.chain);
        let is_told = |faults: Vec<String>| faults.iter().any(|fault| fault.starts_with(&gone));
        assert!(is_told(faults(folder.path(), &seal)), "while no server runs");
        write(&mut writer(folder.path(), &seal, DAY), 3);
        assert!(is_told(faults(folder.path(), &seal)), "and when the next has begun a chain of its own");
        fs::remove_file(folder.path().join(format!("audit-{}.lock", kept.chain))).expect("it is there");
        assert_eq!(faults(folder.path(), &seal), Vec::<String>::new(), "unless the lock was taken away, too");
        let known = verify(folder.path(), &seal, &[kept], Allowed::default()).expect("it can be read").faults;
        assert!(known.len() == 1 && known[0].contains("line 20 is known to have been there"), "{known:?}");
    }
}

/// Else those of several hosts could not be collected in one folder, nor one chain be told from the next.
#[test]
fn chains_are_named_after_their_host_and_no_two_have_one_name() {
    let names: std::collections::BTreeSet<String> = (0..3)
        .map(|_| {
            let (_folder, file) = log(&Seal::new(""));
            let name = file.file_name().and_then(|name| name.to_str()).expect("a name");
            name.split('.').next().expect("a chain").to_owned()
        })
        .collect();
    assert_eq!(names.len(), 3);
    let host = nix::unistd::gethostname().expect("a name").to_string_lossy().into_owned();
    let start: String = host.chars().take_while(char::is_ascii_alphanumeric).collect();
    assert!(names.iter().all(|name| name.starts_with(&format!("audit-{start}"))), "{host}: {names:?}");
}

#[test]
fn old_files_are_removed_which_is_recorded_and_is_no_fault() {
    for seal in [Seal::new(""), Seal::new("key")] {
        let folder = tempdir().expect("a folder");
        for day in 1..=9 {
            let mut writer = new_writer(folder.path(), &seal, 3);
            writer.set_clock(move || format!("2026-03-0{day}T12:00:00Z").parse().expect("a time"));
            write(&mut writer, 2);
            assert_eq!(files(folder.path(), "jsonl").len(), day.min(3), "on day {day}");
            assert_eq!(faults(folder.path(), &seal), Vec::<String>::new(), "on day {day}");
        }
        let report = verify(folder.path(), &seal, &[], Allowed::default()).expect("it can be read");
        assert!(report.notes.len() == 1 && report.notes[0].contains("lines 1 to 15 were removed when"), "{:?}", report.notes);
        // More than that cannot be passed off as old.
        fs::remove_file(&files(folder.path(), "jsonl")[0]).expect("it is there");
        assert!(faults(folder.path(), &seal).concat().contains("lines 1 to 18 are missing before it"));
    }
}

/// As many files stay as there are to be, even though all of them look older than that.
#[test]
fn a_clock_that_jumps_removes_no_file_too_many() {
    let (folder, seal) = (tempdir().expect("a folder"), Seal::new(""));
    for now in [DAY, "2026-03-02T00:00:00Z", "2199-01-01T00:00:00Z", "2026-03-03T00:00:00Z"] {
        let mut writer = new_writer(folder.path(), &seal, 4);
        writer.set_clock(move || now.parse().expect("a time"));
        write(&mut writer, 2);
    }
    assert_eq!((files(folder.path(), "jsonl").len(), faults(folder.path(), &seal)), (4, Vec::<String>::new()));
}

#[test]
fn a_clock_that_goes_back_and_forth_removes_nothing() {
    let (folder, seal) = (tempdir().expect("a folder"), Seal::new(""));
    for time in 0..8 {
        let mut writer = new_writer(folder.path(), &seal, 3);
        writer.set_clock(move || format!("2026-03-0{}T12:00:00Z", 1 + time % 2).parse().expect("a time"));
        write(&mut writer, 2);
    }
    assert_eq!((files(folder.path(), "jsonl").len(), faults(folder.path(), &seal)), (8, Vec::<String>::new()), "they are of two days");
}

/// Whoever can only add files to the folder, and has no key.
#[test]
fn files_that_somebody_put_there_make_no_other_old() {
    let (folder, seal) = (tempdir().expect("a folder"), Seal::new("key"));
    let on = |day: u32| {
        let mut writer = new_writer(folder.path(), &seal, 3);
        writer.set_clock(move || format!("2026-03-0{day}T12:00:00Z").parse().expect("a time"));
        write(&mut writer, 2);
    };
    (1..=3).for_each(on);
    let [first, second, third] = files(folder.path(), "jsonl").try_into().expect("three files");
    let fake = |date: &str, line: &str| {
        let name = third.file_name().and_then(|name| name.to_str()).expect("a name");
        let chain = name.split('.').next().expect("a chain");
        folder.path().join(format!("{chain}.{date}.{line}.jsonl"))
    };
    let fakes: Vec<_> = (1..=9).map(|day| fake(&format!("2026-02-0{day}"), "000000000004")).collect();
    for (number, fake) in fakes.iter().enumerate() {
        let content = if number % 2 == 0 { Vec::new() } else { fs::read(&third).expect("it is there") };
        fs::write(fake, content).expect("it is written");
    }
    fs::write(fake("2026-03-01", "999999999999"), "").expect("it is written");
    on(4);
    assert_eq!([&first, &second, &third].map(|file| file.exists()), [false, true, true], "as if the others were not there");
    fakes
        .iter()
        .chain([&fake("2026-03-01", "999999999999")])
        .for_each(|fake| fs::remove_file(fake).expect("it is not the log's to remove"));
    assert_eq!(faults(folder.path(), &seal), Vec::<String>::new());
}

#[test]
fn what_is_said_to_be_removed_must_go_on_from_what_is_known() {
    let seal = Seal::new("");
    let (folder, file) = log(&seal);
    let kept = verify(folder.path(), &seal, &[], Allowed::default()).expect("it can be read").chains.remove(0).last;
    let forged = |line: u64| {
        let mut lines = Vec::new();
        let event =
            Event { removed_to: Some(line - 1), ..Event::new("x", Category::Api, Kind::Info, Outcome::Success) }.to_json(Utc::now());
        let head = chain::Head { line: line - 1, hash: [7; 32] };
        chain::append(&mut lines, &event, &kept.chain, &head, &seal);
        let forged = folder.path().join(format!("audit-{}.2026-03-02.{line:012}.jsonl", kept.chain));
        fs::write(&forged, lines).expect("it is written");
        let found = [false, true].map(|pruned| {
            let allowed = Allowed { pruned, ..Allowed::default() };
            verify(folder.path(), &seal, std::slice::from_ref(&kept), allowed).expect("it can be read").faults.concat()
        });
        fs::remove_file(forged).expect("it is there");
        found
    };
    fs::remove_file(file).expect("it is there");
    let other = "is known to have been another one";
    assert!(forged(21).iter().all(|faults| faults.contains(other)), "{:?}", forged(21));
    let [strict, pruned] = forged(25);
    assert!(strict.contains("line 20 is known to have been there, and was removed") && pruned.is_empty(), "{strict:?}, {pruned:?}");
}

#[test]
fn a_chain_was_begun_when_there_is_a_line_and_not_before() {
    let (folder, seal) = (tempdir().expect("a folder"), Seal::new(""));
    drop(writer(folder.path(), &seal, DAY));
    write(&mut writer(folder.path(), &seal, DAY), 3);
    assert_eq!((files(folder.path(), "lock").len(), faults(folder.path(), &seal)), (1, Vec::<String>::new()), "it is begun after all");
    let [file] = files(folder.path(), "jsonl").try_into().expect("one file");
    fs::write(file, "").expect("it is emptied");
    let found = faults(folder.path(), &seal);
    assert!(found.len() == 1 && found[0].ends_with("all of its lines were taken away"), "{found:?}");
}
