//! Who a request turned out to be.

use std::sync::Arc;

use poem::http::StatusCode;

use crate::{
    access::{Decision, HeldToken, Power, Record, Scope as Needed, Visible},
    api::{Error, error::Aside, extract::Scope},
    queue::{self, Owner, Thing},
};

/// Who sent a request, and what they may do.
#[derive(Debug, Clone)]
pub struct Principal {
    who: Who,
    power: Arc<Power>,
}

/// Who it is.
#[derive(Debug, Clone)]
pub enum Who {
    /// Whoever reached the port (`disable_auth`).
    Anybody,
    /// A key of the configuration, by its place in the list.
    Configured(usize),
    /// A key.
    Key(Arc<Record>),
    /// A token of a key, by its digest.
    Token {
        /// The key.
        key: Arc<Record>,
        /// The token.
        token: Arc<HeldToken>,
        /// Its digest.
        digest: [u8; 32],
    },
}

impl Principal {
    pub(super) fn anybody() -> Self {
        Self { who: Who::Anybody, power: Arc::new(Power::FULL) }
    }

    pub(super) fn configured(position: usize) -> Self {
        Self { who: Who::Configured(position), power: Arc::new(Power::FULL) }
    }

    pub(super) fn of(record: &Arc<Record>) -> Self {
        Self { who: Who::Key(record.clone()), power: Arc::new(record.power()) }
    }

    pub(super) fn of_token(key: &Arc<Record>, token: &Arc<HeldToken>, digest: [u8; 32]) -> Self {
        let power = Arc::new(token.power(key));
        Self { who: Who::Token { key: key.clone(), token: token.clone(), digest }, power }
    }

    /// Who it is.
    pub fn who(&self) -> &Who {
        &self.who
    }

    /// All that it may do.
    pub fn power(&self) -> &Power {
        &self.power
    }

    /// What tells it from others.
    pub fn name(&self) -> String {
        match &self.who {
            Who::Anybody => "anybody".to_owned(),
            Who::Configured(_) => "configured".to_owned(),
            Who::Key(record) | Who::Token { key: record, .. } => format!("key {}", record.id),
        }
    }

    /// For whose clients it may speak; nothing for everybody's.
    pub fn owner(&self) -> Option<Owner> {
        match &self.who {
            Who::Key(record) | Who::Token { key: record, .. } if self.check(Scope::Admin).is_err() => {
                Some(Owner { user: record.user.as_ref().map(|user| user.id), key: record.id.to_string() })
            }
            Who::Anybody | Who::Configured(_) | Who::Key(_) | Who::Token { .. } => None,
        }
    }

    /// Whether it may do what needs a scope, where no project is known, or none yet.
    ///
    /// # Errors
    ///
    /// 403, which says what is missing.
    pub fn check(&self, scope: Scope) -> Result<(), Error> {
        match self.power.may(scope.into(), None) {
            Decision::Yes => Ok(()),
            Decision::MissingScope | Decision::Invisible => Err(self.missing(scope, None)),
        }
    }

    /// Whether it may do one of these somewhere. What it may do where is checked when the project is known.
    ///
    /// # Errors
    ///
    /// 403, which says what is missing.
    pub fn check_somewhere(&self, scopes: &[Scope]) -> Result<(), Error> {
        let may = |scope: &Scope| !matches!(self.power.projects((*scope).into()), Visible::Only(projects) if projects.is_empty());
        match scopes {
            [] => Ok(()),
            scopes if scopes.iter().any(may) => Ok(()),
            [first, ..] => Err(self.missing(*first, None)),
        }
    }

    /// Whether it may do this in a project.
    ///
    /// # Errors
    ///
    /// 404 if it may not know the project, 403 if it may not do this there.
    pub fn check_in(&self, scope: Scope, project: i64) -> Result<(), Error> {
        self.check_on(scope, project, || Thing::Project(project))
    }

    /// Whether it may do this to something of a project.
    ///
    /// # Errors
    ///
    /// 404 for the thing if it may not know the project, 403 if it may not do this there.
    pub fn check_on(&self, scope: Scope, project: i64, thing: impl FnOnce() -> Thing) -> Result<(), Error> {
        match self.power.may(scope.into(), Some(project)) {
            Decision::Yes => Ok(()),
            Decision::Invisible => Err(Error::from(queue::Error::NotFound(thing())).with_aside(Aside::Hidden)),
            Decision::MissingScope => Err(self.missing(scope, Some(project))),
        }
    }

    /// Whether it may do this in a project that the request names in its body or query: one that it may not know is unknown.
    ///
    /// # Errors
    ///
    /// 400 if it may not know the project, 403 if it may not do this there.
    pub fn check_named(&self, scope: Scope, project: i64) -> Result<(), Error> {
        match self.power.may(scope.into(), Some(project)) {
            Decision::Yes => Ok(()),
            Decision::Invisible => Err(Error::from(queue::Error::UnknownProject(project)).with_aside(Aside::Hidden)),
            Decision::MissingScope => Err(self.missing(scope, Some(project))),
        }
    }

    /// Whether it may do this in a project.
    pub fn may(&self, scope: Scope, project: i64) -> bool {
        self.power.may(scope.into(), Some(project)) == Decision::Yes
    }

    /// The projects that it may read; nothing stands for all.
    pub fn readable(&self) -> Option<Vec<i64>> {
        match self.power.projects(Needed::Read) {
            Visible::All => None,
            Visible::Only(projects) => Some(projects),
        }
    }

    fn missing(&self, scope: Scope, project: Option<i64>) -> Error {
        let what = match &self.who {
            Who::Token { .. } => "token",
            Who::Key(_) | Who::Configured(_) | Who::Anybody => "key",
        };
        let place = project.map(|project| format!(" in project {project}")).unwrap_or_default();
        let detail = format!("This {what} may not do that: it lacks the scope {}{place}.", Needed::from(scope).as_str());
        Error::new(StatusCode::FORBIDDEN, detail)
    }
}
