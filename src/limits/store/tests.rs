use super::*;

#[test]
fn only_an_answer_that_says_so_is_an_admission() {
    let stands = |remaining, verdict| Some(Standing { limit: 10, remaining, reset_ms: 60_001, verdict });
    assert_eq!(
        decided(&[1, 10, 9, 60_001, 0, 0, 0, 0, 0], 1, 2).unwrap(),
        (1, Admission::Admitted { standings: vec![stands(9, Verdict::Admits), None] })
    );
    let refusal = Admission::Refused { standings: vec![stands(0, Verdict::After(700))], retry_after_ms: Some(700) };
    assert_eq!(decided(&[0, 10, 0, 60_001, 700], 1, 1).unwrap(), (0, refusal.clone()));
    assert_eq!(decided(&[3, 10, 0, 60_001, 700], 4, 1).unwrap(), (3, refusal));
    for (wrong, times) in [
        (&[][..], 1),
        (&[1][..], 1),
        (&[-4][..], 1),
        (&[-1, 10, 9, 60_001, 0][..], 1),
        (&[5, 10, 9, 60_001, 0][..], 1),
        (&[1, 10, 9, 60_001][..], 1),
        (&[1, 10, 9, 60_001, 5][..], 1),
        (&[0, 10, 9, 60_001, 0][..], 1),
        (&[2, 10, 0, 60_001, 0][..], 3),
        (&[1, 10, -9, 60_001, 0][..], 1),
    ] {
        assert!(decided(wrong, times, 1).is_err(), "{wrong:?}");
    }
}

#[test]
fn each_is_told_what_was_left_after_it() {
    let stands = |remaining, verdict| Some(Standing { limit: 10, remaining, reset_ms: 60_001, verdict });
    let end = Admission::Refused { standings: vec![stands(1, Verdict::After(700)), None], retry_after_ms: Some(700) };
    let admissions = Admissions { admitted: 3, end: end.clone(), weights: vec![2, 1] };
    let then = |remaining| Admission::Admitted { standings: vec![stands(remaining, Verdict::Admits), None] };
    assert_eq!([0, 1, 2, 3, 4].map(|place| admissions.of(place)), [then(5), then(3), then(1), end.clone(), end]);
    let gone = Admissions { admitted: 0, end: Admission::Gone, weights: vec![1] };
    assert_eq!(gone.of(0), Admission::Gone);
}

#[test]
fn all_keys_of_a_subject_share_a_hash_tag() {
    let limits = Limits::new("wn");
    assert_eq!(limits.record_key("k:01"), "wn:{k:01}:record");
    assert_eq!(limits.window_key("k:01", "api"), "wn:{k:01}:w:api");
}
