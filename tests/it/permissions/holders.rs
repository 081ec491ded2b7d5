//! Who asks, and what must become of that: the rule, written down a second time and not taken from the server's code.

use std::collections::BTreeMap;

use whatsnext::access::{Grants, Role};

use super::{Operation, Place, Site};

/// What must become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Done,
    /// 403.
    Lacks,
    /// As if it did not exist: 404, 400 or an empty list, by [`Place`].
    Absent,
}

/// Where which role was given.
#[derive(Debug, Clone, Copy)]
pub(super) enum Given {
    /// In all projects.
    All(Role),
    /// In these.
    Only(&'static [(Site, Role)]),
}

/// What is sent, and what it was given.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    pub(super) key: Given,
    /// What the key's user was given, if it has one.
    pub(super) user: Option<Given>,
    /// What a token of the key was asked for, if that is sent in its place.
    pub(super) token: Option<Part>,
}

/// What a token was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part {
    pub(super) scopes: &'static [&'static str],
    /// In its own project, or wherever its key may do something.
    pub(super) is_here: bool,
}

/// Keys with each role, and tokens of an administrator with some.
pub(super) fn with_roles() -> Vec<Holder> {
    let keys = Role::ALL.into_iter().flat_map(|role| [Given::All(role), Given::Only(here(role))]);
    // And one that may do more in a project that no request is about.
    let more_elsewhere = Given::Only(&[(Site::Own, Role::Reader), (Site::Elsewhere, Role::Maintainer)]);
    let tokens = [Role::Worker, Role::Maintainer].map(|role| token(bundle(role), true));
    keys.chain([more_elsewhere]).map(key).chain(tokens).collect()
}

/// Whoever holds exactly one scope. No key does: its roles bundle several. `admin` is never alone, nor a token's.
pub(super) fn with_one_scope() -> Vec<Holder> {
    let each: [&[&str]; 4] = [&["read"], &["submit"], &["work"], &["manage"]];
    each.into_iter().flat_map(|scope| [token(scope, true), token(scope, false)]).collect()
}

/// Keys whose users may do less, or something else.
pub(super) fn with_users() -> Vec<Holder> {
    use Role::{Admin, Maintainer, Reader, Submitter, Worker};
    use Site::{Elsewhere, Foreign, Own};
    let bounded = |key: Given, user: Given| Holder { key, user: Some(user), token: None };
    let deputy = Part { scopes: &["submit", "work"], is_here: false };
    vec![
        bounded(Given::All(Admin), Given::Only(&[(Own, Maintainer)])),
        bounded(Given::All(Admin), Given::Only(&[(Own, Admin)])),
        bounded(Given::Only(&[(Own, Maintainer)]), Given::All(Admin)),
        bounded(Given::All(Admin), Given::All(Reader)),
        // Of what each of them may do, neither may do all.
        bounded(Given::All(Worker), Given::All(Submitter)),
        bounded(Given::Only(&[(Own, Maintainer), (Foreign, Maintainer)]), Given::Only(&[(Own, Worker), (Elsewhere, Maintainer)])),
        bounded(Given::Only(&[(Own, Maintainer)]), Given::Only(&[(Foreign, Maintainer)])),
        Holder { token: Some(deputy), ..bounded(Given::All(Admin), Given::Only(&[(Own, Worker)])) },
    ]
}

fn key(key: Given) -> Holder {
    Holder { key, user: None, token: None }
}

/// A token of an administrator.
fn token(scopes: &'static [&'static str], is_here: bool) -> Holder {
    Holder { token: Some(Part { scopes, is_here }), ..key(Given::All(Role::Admin)) }
}

fn here(role: Role) -> &'static [(Site, Role)] {
    match role {
        Role::Reader => &[(Site::Own, Role::Reader)],
        Role::Worker => &[(Site::Own, Role::Worker)],
        Role::Submitter => &[(Site::Own, Role::Submitter)],
        Role::Maintainer => &[(Site::Own, Role::Maintainer)],
        Role::Admin => &[(Site::Own, Role::Admin)],
    }
}

/// As the document describes the roles.
fn bundle(role: Role) -> &'static [&'static str] {
    match role {
        Role::Reader => &["read"],
        Role::Worker => &["read", "work"],
        Role::Submitter => &["read", "submit"],
        Role::Maintainer => &["read", "submit", "work", "manage"],
        Role::Admin => &["read", "submit", "work", "manage", "admin"],
    }
}

impl Given {
    /// As a server is told it.
    pub(super) fn grants(self, project: impl Fn(Site) -> i64) -> Grants {
        match self {
            Self::All(role) => Grants::All(role),
            Self::Only(roles) => Grants::Only(roles.iter().map(|(site, role)| (project(*site), *role)).collect::<BTreeMap<_, _>>()),
        }
    }

    fn scopes(self, at: Site) -> Vec<&'static str> {
        match self {
            Self::All(role) => bundle(role).to_vec(),
            Self::Only(roles) => {
                let role = roles.iter().find(|(site, _)| *site == at).map(|(_, role)| bundle(*role));
                // Nobody administrates one project.
                role.unwrap_or_default().iter().copied().filter(|scope| *scope != "admin").collect()
            }
        }
    }
}

impl Holder {
    /// An administrator of everything.
    pub(super) const ADMIN: Self = Self { key: Given::All(Role::Admin), user: None, token: None };

    /// The scopes in a project: those that all of key, user and token have. It may not be known where there is none.
    fn scopes(&self, site: Site) -> Vec<&'static str> {
        let mut scopes = self.key.scopes(site);
        if let Some(user) = self.user {
            let theirs = user.scopes(site);
            scopes.retain(|scope| theirs.contains(scope));
        }
        if let Some(Part { scopes: asked, is_here }) = self.token {
            scopes.retain(|scope| *scope != "admin" && asked.contains(scope) && (site == Site::Own || !is_here));
        }
        scopes
    }

    /// Whether a project may be read.
    pub(super) fn reads(&self, site: Site) -> bool {
        self.scopes(site).contains(&"read")
    }

    /// Whether it is no secret whether the project is there.
    pub(super) fn knows(&self, site: Site) -> bool {
        !self.scopes(site).is_empty()
    }

    /// What is answered to a token where a key is told something else.
    pub(super) fn told(&self, operation: &Operation) -> Option<u16> {
        match operation.id.as_str() {
            _ if self.token.is_none() => None,
            "create_token" | "get_own_key" | "revoke_own_key" => Some(403),
            "get_own_token" => Some(200),
            "delete_own_token" => Some(204),
            _ => None,
        }
    }

    pub(super) fn expected(&self, operation: &Operation, site: Site) -> Expected {
        let may = |site| {
            let held = self.scopes(site);
            operation.scopes.is_empty() || operation.scopes.iter().any(|scope| held.contains(scope))
        };
        let somewhere = [Site::Own, Site::Foreign, Site::Elsewhere, Site::Absent].into_iter().any(may);
        // What may be done in a project that nobody named may be done in all.
        let throughout = may(Site::Absent);
        let allowed = |is_so| if is_so { Expected::Done } else { Expected::Lacks };
        match (operation.place, self.knows(site)) {
            (Place::None, _) => allowed(if operation.is_for_all() { throughout } else { somewhere }),
            (Place::Path, false) => Expected::Absent,
            (_, false) if !somewhere => Expected::Lacks,
            (_, false) => Expected::Absent,
            (_, true) if !may(site) => Expected::Lacks,
            (_, true) if site == Site::Absent => Expected::Absent,
            (_, true) => Expected::Done,
        }
    }
}
