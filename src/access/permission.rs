//! What a key or a user may do: scopes, the roles that bundle them, and the projects in which they hold.
//!
//! A [`Power`] gives each project a set of scopes. A key may do what both itself and its user may: [`Power::meet`], the intersection
//! project by project. So nothing that a key says of itself makes it more than its user, and a user who loses a project takes it from all
//! of their keys.
//!
//! # Where there is no project
//!
//! | what | needs |
//! | --- | --- |
//! | reading what belongs to no project (clients) | `read` somewhere |
//! | what a client says of itself | `work` somewhere: a machine registers before it knows what it will run |
//! | creating a project | `manage` on **all** projects: whoever was given some must not make more of them |
//! | keys, users, limits, audit | `admin` on **all** projects. In a list of projects the role [`Role::Admin`] is [`Role::Maintainer`] |
//!
//! # What is hidden
//!
//! A project in which a key may do nothing at all is [`Invisible`](Decision::Invisible), answered in the same way as one that does not
//! exist. Every role includes `read`, so these are the projects that may not be read. A key whose own scopes leave out `read` can still,
//! say, claim in its projects; it is told which scope it lacks, because it knows already that they exist.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// What an operation needs. Each names exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Every GET but the one that claims.
    Read,
    /// Adding, changing, deleting and cancelling jobs.
    Submit,
    /// Claiming and reporting, and what a client says of itself.
    Work,
    /// Creating, changing and deleting projects and tasks.
    Manage,
    /// Keys, users, limits, audit.
    Admin,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::Submit, Self::Work, Self::Manage, Self::Admin];

    /// Its name, as keys and messages have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Work => "work",
            Self::Manage => "manage",
            Self::Admin => "admin",
        }
    }
}

/// A set of scopes. Stored as a list of their names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(from = "Vec<Scope>", into = "Vec<Scope>")]
pub struct Scopes(u8);

impl Scopes {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// All of them.
    pub const ALL: Self = Self::of(&Scope::ALL);

    /// These.
    #[must_use]
    pub const fn of(scopes: &[Scope]) -> Self {
        let (mut bits, mut next) = (0, 0);
        while next < scopes.len() {
            bits |= 1 << scopes[next] as u8;
            next += 1;
        }
        Self(bits)
    }

    /// Whether one of them is this.
    #[must_use]
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Those in both.
    #[must_use]
    pub const fn meet(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    const fn join(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn without(self, scope: Scope) -> Self {
        Self(self.0 & !(1 << scope as u8))
    }

    /// One after the other, in the order of [`Scope::ALL`].
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.into_iter().filter(move |scope| self.contains(*scope))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<T: IntoIterator<Item = Scope>>(scopes: T) -> Self {
        scopes.into_iter().fold(Self::NONE, |all, scope| all.join(Self::of(&[scope])))
    }
}

impl From<Vec<Scope>> for Scopes {
    fn from(scopes: Vec<Scope>) -> Self {
        Self::of(&scopes)
    }
}

impl From<Scopes> for Vec<Scope> {
    fn from(scopes: Scopes) -> Self {
        scopes.iter().collect()
    }
}

/// A bundle of scopes with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// `read`.
    Reader,
    /// `read`, `work`.
    Worker,
    /// `read`, `submit`.
    Submitter,
    /// All but `admin`.
    Maintainer,
    /// All.
    Admin,
}

impl Role {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Reader, Self::Worker, Self::Submitter, Self::Maintainer, Self::Admin];

    /// Its name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Worker => "worker",
            Self::Submitter => "submitter",
            Self::Maintainer => "maintainer",
            Self::Admin => "admin",
        }
    }

    /// What it bundles.
    #[must_use]
    pub const fn scopes(self) -> Scopes {
        match self {
            Self::Reader => Scopes::of(&[Scope::Read]),
            Self::Worker => Scopes::of(&[Scope::Read, Scope::Work]),
            Self::Submitter => Scopes::of(&[Scope::Read, Scope::Submit]),
            Self::Maintainer => Scopes::ALL.without(Scope::Admin),
            Self::Admin => Scopes::ALL,
        }
    }
}

/// Where which role holds, as it is stored: `{"all":"worker"}` or `{"only":{"7":"reader","9":"maintainer"}}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Grants {
    /// In every project, also in those that do not exist yet.
    All(Role),
    /// In these projects, by id. At most [`Grants::MAX_PROJECTS`].
    Only(BTreeMap<i64, Role>),
}

impl Grants {
    /// How many projects a list may have: it is read with every request.
    pub const MAX_PROJECTS: usize = 1_000;

    /// Whether it may be stored.
    #[must_use]
    pub fn is_short(&self) -> bool {
        match self {
            Self::All(_) => true,
            Self::Only(projects) => projects.len() <= Self::MAX_PROJECTS,
        }
    }
}

/// What a part of a power is asked for: these scopes, in these projects. Never `admin`, whatever it says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// At most these.
    pub scopes: Scopes,
    /// In these projects, at most [`Bounds::MAX_PROJECTS`]; or in all that the power has, also in those that it will have.
    pub projects: Option<BTreeSet<i64>>,
}

impl Bounds {
    /// How many projects a list may have: servers keep it in memory.
    pub const MAX_PROJECTS: usize = 100;
}

/// What a principal may do. Equal if and only if it allows the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Power(Reach);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Reach {
    /// The same in all projects, and not nothing.
    Everywhere(Scopes),
    /// By project id, each once and ascending; never nothing, never `admin`.
    Somewhere(Vec<(i64, Scopes)>),
}

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Decision {
    /// It is to be answered as if the project did not exist: 404.
    Invisible,
    /// The scope is missing, in this project or wherever it would be needed: 403.
    MissingScope,
    /// It may go on.
    Yes,
}

/// The projects that a list may show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Visible {
    /// All of them.
    All,
    /// Those with these ids, ascending.
    Only(Vec<i64>),
}

impl Power {
    /// May do nothing.
    pub const NONE: Self = Self(Reach::Somewhere(Vec::new()));

    /// May do everything.
    pub const FULL: Self = Self(Reach::Everywhere(Scopes::ALL));

    /// What these scopes allow where these grants hold: a key's own part. For a user, whose grants alone count, the scopes are
    /// [`Scopes::ALL`].
    #[must_use]
    pub fn new(scopes: Scopes, grants: &Grants) -> Self {
        match grants {
            Grants::All(role) => Self::everywhere(scopes.meet(role.scopes())),
            Grants::Only(projects) => Self::somewhere(projects.iter().map(|(id, role)| (*id, scopes.meet(role.scopes())))),
        }
    }

    fn everywhere(scopes: Scopes) -> Self {
        if scopes.is_empty() { Self::NONE } else { Self(Reach::Everywhere(scopes)) }
    }

    fn somewhere(projects: impl Iterator<Item = (i64, Scopes)>) -> Self {
        let projects = projects.map(|(id, scopes)| (id, scopes.without(Scope::Admin)));
        Self(Reach::Somewhere(projects.filter(|(_, scopes)| !scopes.is_empty()).collect()))
    }

    /// What both may do.
    #[must_use]
    pub fn meet(&self, other: &Self) -> Self {
        match (&self.0, &other.0) {
            (Reach::Everywhere(ours), Reach::Everywhere(theirs)) => Self::everywhere(ours.meet(*theirs)),
            (Reach::Somewhere(projects), _) => Self::somewhere(projects.iter().map(|(id, scopes)| (*id, scopes.meet(other.within(*id))))),
            (Reach::Everywhere(_), Reach::Somewhere(_)) => other.meet(self),
        }
    }

    /// As much of it as is within these bounds.
    #[must_use]
    pub fn within_bounds(&self, bounds: &Bounds) -> Self {
        let scopes = bounds.scopes.without(Scope::Admin);
        self.meet(&match &bounds.projects {
            None => Self::everywhere(scopes),
            Some(projects) => Self::somewhere(projects.iter().map(|id| (*id, scopes))),
        })
    }

    /// Whether it may do what needs this scope, in this project or, where there is none, at all (see the module's table).
    #[must_use]
    pub fn may(&self, scope: Scope, project: Option<i64>) -> Decision {
        let scopes = match (project, scope) {
            (_, Scope::Admin) | (None, Scope::Manage) => self.throughout(),
            (Some(id), _) => self.within(id),
            (None, _) => self.anywhere(),
        };
        if scopes.contains(scope) {
            return Decision::Yes;
        }
        match project {
            Some(id) if self.within(id).is_empty() => Decision::Invisible,
            _ => Decision::MissingScope,
        }
    }

    /// The projects in which it may do what needs this scope. For what a list shows: [`Scope::Read`].
    #[must_use]
    pub fn projects(&self, scope: Scope) -> Visible {
        match &self.0 {
            Reach::Everywhere(scopes) if scopes.contains(scope) => Visible::All,
            Reach::Everywhere(_) => Visible::Only(Vec::new()),
            Reach::Somewhere(projects) => {
                Visible::Only(projects.iter().filter(|(_, scopes)| scopes.contains(scope)).map(|(id, _)| *id).collect())
            }
        }
    }

    /// Its scopes in one project.
    #[must_use]
    pub fn within(&self, project: i64) -> Scopes {
        match &self.0 {
            Reach::Everywhere(scopes) => *scopes,
            Reach::Somewhere(projects) => projects.binary_search_by_key(&project, |(id, _)| *id).map_or(Scopes::NONE, |at| projects[at].1),
        }
    }

    /// Its scopes in all projects.
    fn throughout(&self) -> Scopes {
        match &self.0 {
            Reach::Everywhere(scopes) => *scopes,
            Reach::Somewhere(_) => Scopes::NONE,
        }
    }

    /// Its scopes in one project or another.
    #[must_use]
    pub fn anywhere(&self) -> Scopes {
        match &self.0 {
            Reach::Everywhere(scopes) => *scopes,
            Reach::Somewhere(projects) => projects.iter().fold(Scopes::NONE, |all, (_, scopes)| all.join(*scopes)),
        }
    }
}

#[cfg(test)]
mod tests;
