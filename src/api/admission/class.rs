//! What requests are counted as.

use poem::http::Method;

use super::window;
use crate::limits::Window;

/// What a request is counted as. Each class has a window of its own, so that nothing else can keep out a heartbeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Everything else. Waiting for a job counts once, however long it takes.
    Api,
    /// What a client says of what it has claimed.
    Report,
}

impl Class {
    /// All of them.
    pub(super) const ALL: [Self; 2] = [Self::Api, Self::Report];

    /// What a request with this method for this path is.
    pub fn of(method: &Method, path: &str) -> Self {
        let mut parts = path.split('/').skip(1);
        match (parts.next(), parts.next(), parts.next()) {
            (Some("jobs"), Some(_), Some("attempts")) | (Some("clients"), Some(_), Some("heartbeat")) if method == Method::POST => {
                Self::Report
            }
            _ => Self::Api,
        }
    }

    /// Its name, also that of its windows.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Report => "report",
        }
    }
}

/// How many requests of each class come in in a minute; 0 for any number.
pub(super) struct ClassLimits {
    pub(super) api: u32,
    pub(super) report: u32,
}

impl ClassLimits {
    /// The window of a class. Keys may have a limit of their own, which is one for `api`.
    pub(super) fn window(&self, class: Class, is_of_key: bool) -> [Window; 1] {
        match class {
            Class::Api => [window(class.name(), self.api, 1, is_of_key)],
            Class::Report => [window(class.name(), self.report, 1, false)],
        }
    }
}
