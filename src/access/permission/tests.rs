use proptest::{collection, prelude::*, sample};

use super::{Decision::*, *};

fn only<const N: usize>(projects: [(i64, Role); N]) -> Grants {
    Grants::Only(projects.into())
}

fn user(grants: &Grants) -> Power {
    Power::new(Scopes::ALL, grants)
}

#[test]
fn roles_allow_what_their_names_say() {
    let allowed = |role| Scope::ALL.map(|scope| user(&Grants::All(role)).may(scope, Some(7)) == Yes);
    assert_eq!(allowed(Role::Reader), [true, false, false, false, false]);
    assert_eq!(allowed(Role::Submitter), [true, true, false, false, false]);
    assert_eq!(allowed(Role::Worker), [true, false, true, false, false]);
    assert_eq!(allowed(Role::Maintainer), [true, true, true, true, false]);
    assert_eq!(allowed(Role::Admin), [true; 5]);
}

#[test]
fn a_project_that_was_not_granted_looks_as_if_it_did_not_exist() {
    let power = user(&only([(7, Role::Reader)]));
    assert_eq!(power.may(Scope::Read, Some(7)), Yes);
    assert_eq!(power.may(Scope::Submit, Some(7)), MissingScope);
    for scope in Scope::ALL {
        assert_eq!(power.may(scope, Some(8)), Invisible, "{scope:?}");
        assert_eq!(power.may(scope, Some(-7)), Invisible, "{scope:?}");
    }
}

#[test]
fn a_key_never_exceeds_its_user() {
    let key = Power::new(Scopes::ALL, &Grants::All(Role::Admin));
    let power = key.meet(&user(&only([(7, Role::Worker)])));
    assert_eq!(power, user(&only([(7, Role::Worker)])));
    let key = Power::new(Scopes::of(&[Scope::Work]), &only([(7, Role::Maintainer), (8, Role::Maintainer)]));
    assert_eq!(key.meet(&user(&Grants::All(Role::Worker))).may(Scope::Work, Some(8)), Yes);
    assert_eq!(key.meet(&user(&Grants::All(Role::Submitter))), Power::NONE);
}

#[test]
fn a_key_without_read_is_told_what_it_lacks() {
    let key = Power::new(Scopes::of(&[Scope::Work]), &only([(7, Role::Worker)]));
    assert_eq!(key.may(Scope::Work, Some(7)), Yes);
    assert_eq!(key.may(Scope::Read, Some(7)), MissingScope);
    assert_eq!(key.may(Scope::Read, Some(8)), Invisible);
    assert_eq!(key.projects(Scope::Read), Visible::Only(vec![]));
    assert_eq!(key.projects(Scope::Work), Visible::Only(vec![7]));
}

#[test]
fn creating_projects_needs_manage_on_all_of_them() {
    assert_eq!(user(&only([(7, Role::Maintainer)])).may(Scope::Manage, Some(7)), Yes);
    assert_eq!(user(&only([(7, Role::Maintainer)])).may(Scope::Manage, None), MissingScope);
    assert_eq!(user(&Grants::All(Role::Maintainer)).may(Scope::Manage, None), Yes);
}

#[test]
fn an_admin_of_some_projects_is_their_maintainer() {
    let power = user(&only([(7, Role::Admin)]));
    assert_eq!(power, user(&only([(7, Role::Maintainer)])));
    assert_eq!(power.may(Scope::Admin, None), MissingScope);
    assert_eq!(power.may(Scope::Admin, Some(7)), MissingScope);
    assert_eq!(Power::FULL.may(Scope::Admin, None), Yes);
    assert_eq!(Power::FULL.meet(&power), power);
}

#[test]
fn reading_and_working_outside_of_projects_needs_them_somewhere() {
    let power = user(&only([(7, Role::Worker)]));
    assert_eq!((power.may(Scope::Read, None), power.may(Scope::Work, None)), (Yes, Yes));
    assert_eq!(power.may(Scope::Submit, None), MissingScope);
    assert_eq!(Power::NONE.may(Scope::Read, None), MissingScope);
    assert_eq!(Power::NONE.may(Scope::Read, Some(1)), Invisible);
}

#[test]
fn what_is_stored_is_short_and_read_strictly() {
    assert_eq!(serde_json::to_string(&Grants::All(Role::Worker)).unwrap(), r#"{"all":"worker"}"#);
    let grants = only([(9, Role::Maintainer), (7, Role::Reader)]);
    let json = serde_json::to_string(&grants).unwrap();
    assert_eq!(json, r#"{"only":{"7":"reader","9":"maintainer"}}"#);
    assert_eq!(serde_json::from_str::<Grants>(&json).unwrap(), grants);
    let scopes = Scopes::of(&[Scope::Work, Scope::Read]);
    assert_eq!(serde_json::to_string(&scopes).unwrap(), r#"["read","work"]"#);
    assert_eq!(serde_json::from_str::<Scopes>(r#"["work","read","work"]"#).unwrap(), scopes);
    for wrong in [
        r#""admin""#,
        "{}",
        "null",
        r#"{"all":"Admin"}"#,
        r#"{"all":"root"}"#,
        r#"{"only":{"x":"reader"}}"#,
        r#"{"all":"reader","only":{}}"#,
    ] {
        serde_json::from_str::<Grants>(wrong).unwrap_err();
    }
    serde_json::from_str::<Scopes>(r#"["read","everything"]"#).unwrap_err();
}

#[test]
fn names_are_those_that_are_stored() {
    for scope in Scope::ALL {
        assert_eq!(serde_json::to_string(&scope).unwrap(), format!("\"{}\"", scope.as_str()));
    }
}

#[test]
fn a_list_of_projects_has_an_end() {
    let of = |n: usize| Grants::Only((0..n as i64).map(|id| (id, Role::Reader)).collect());
    assert!(of(Grants::MAX_PROJECTS).is_short() && !of(Grants::MAX_PROJECTS + 1).is_short());
}

fn scopes() -> impl Strategy<Value = Scopes> {
    (0_u8..32).prop_map(Scopes)
}

fn grants() -> impl Strategy<Value = Grants> {
    let role = || sample::select(&Role::ALL[..]);
    prop_oneof![role().prop_map(Grants::All), collection::btree_map(0_i64..6, role(), 0..6).prop_map(Grants::Only)]
}

fn power() -> impl Strategy<Value = Power> {
    (scopes(), grants()).prop_map(|(scopes, grants)| Power::new(scopes, &grants))
}

fn questions() -> impl Iterator<Item = (Scope, Option<i64>)> {
    Scope::ALL.into_iter().flat_map(|scope| (0..7).map(Some).chain([None]).map(move |project| (scope, project)))
}

proptest! {
    #[test]
    fn meeting_is_commutative_idempotent_and_associative(a in power(), b in power(), c in power()) {
        prop_assert_eq!(a.meet(&b), b.meet(&a));
        prop_assert_eq!(&a.meet(&a), &a);
        prop_assert_eq!(a.meet(&b).meet(&c), a.meet(&b.meet(&c)));
        prop_assert_eq!(&a.meet(&Power::FULL), &a);
        prop_assert_eq!(a.meet(&Power::NONE), Power::NONE);
    }

    #[test]
    fn meeting_allows_no_more_than_either(a in power(), b in power()) {
        let both = a.meet(&b);
        for (scope, project) in questions() {
            let (ours, theirs) = (a.may(scope, project), b.may(scope, project));
            prop_assert!(both.may(scope, project) <= ours.min(theirs), "{:?} {:?}", scope, project);
        }
    }

    #[test]
    fn meeting_allows_in_a_project_what_both_allow(
        (a, b) in (power(), power()),
        scope in sample::select(&Scope::ALL[..4]),
        project in 0_i64..7,
    ) {
        let both = a.meet(&b).may(scope, Some(project)) == Yes;
        prop_assert_eq!(both, a.may(scope, Some(project)) == Yes && b.may(scope, Some(project)) == Yes);
    }

    #[test]
    fn a_part_of_a_power_allows_what_the_whole_does_within_its_bounds_and_never_administration(
        power in power(),
        scopes in scopes(),
        projects in prop::option::of(collection::btree_set(0_i64..6, 0..4)),
    ) {
        let part = power.within_bounds(&Bounds { scopes, projects: projects.clone() });
        for (scope, project) in questions() {
            prop_assert!(part.may(scope, project) <= power.may(scope, project));
            if let Some(project) = project {
                let within = scope != Scope::Admin && scopes.contains(scope) && projects.as_ref().is_none_or(|all| all.contains(&project));
                prop_assert_eq!(part.may(scope, Some(project)) == Yes, within && power.may(scope, Some(project)) == Yes);
            }
        }
    }

    #[test]
    fn lists_show_exactly_what_may_be_read(power in power(), scope in sample::select(&Scope::ALL[..])) {
        let shown = power.projects(scope);
        for project in 0..7 {
            let may = power.may(scope, Some(project)) == Yes;
            prop_assert_eq!(may, match &shown { Visible::All => true, Visible::Only(ids) => ids.contains(&project) });
        }
        if let Visible::Only(ids) = shown {
            prop_assert!(ids.is_sorted());
        }
    }

    #[test]
    fn equal_means_that_the_same_is_allowed(a in power(), b in power()) {
        let same = questions().all(|(scope, project)| a.may(scope, project) == b.may(scope, project));
        prop_assert_eq!(a == b, same);
    }

    #[test]
    fn grants_are_read_as_they_were_written(grants in grants(), scopes in scopes()) {
        prop_assert_eq!(serde_json::from_str::<Grants>(&serde_json::to_string(&grants).unwrap()).unwrap(), grants);
        prop_assert_eq!(serde_json::from_str::<Scopes>(&serde_json::to_string(&scopes).unwrap()).unwrap(), scopes);
    }
}
