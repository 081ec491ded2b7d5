//! Roles, and where they hold.

use std::{
    borrow::Cow,
    fmt::{self, Display, Formatter},
};

use poem_openapi::{
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{ParseError, ParseFromJSON, ParseResult, ToJSON, Type},
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::access;

/// A bundle of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Role(pub access::Role);

/// What a role is, for the document.
const ROLES: &str = "`reader`: read. `worker`: read, work. `submitter`: read, submit. `maintainer`: all but admin. `admin`: all.";

documented!(
    Role,
    component "Role",
    MetaSchema {
        description: Some(ROLES),
        enum_items: access::Role::ALL.iter().map(|role| json!(role)).collect(),
        ..MetaSchema::new("string")
    }
);

/// What a token can be good for: a scope that is not `admin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "they are those of access::Scope")]
pub enum TokenScope {
    Read,
    Submit,
    Work,
    Manage,
}

impl TokenScope {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Read, Self::Submit, Self::Work, Self::Manage];
}

impl From<TokenScope> for access::Scope {
    fn from(scope: TokenScope) -> Self {
        match scope {
            TokenScope::Read => Self::Read,
            TokenScope::Submit => Self::Submit,
            TokenScope::Work => Self::Work,
            TokenScope::Manage => Self::Manage,
        }
    }
}

documented!(
    TokenScope,
    component "TokenScope",
    MetaSchema {
        description: Some("A scope that a token can have: any but admin."),
        enum_items: TokenScope::ALL.iter().map(|scope| json!(scope)).collect(),
        ..MetaSchema::new("string")
    }
);

/// Where which role holds: `{"all": "worker"}`, or `{"only": {"7": "reader"}}` with the ids of projects.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Grants(pub access::Grants);

/// In short: `worker`, or `reader in 7, maintainer in 9`.
impl Display for Grants {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        match &self.0 {
            access::Grants::All(role) => formatter.write_str(role.as_str()),
            access::Grants::Only(projects) => {
                let each: Vec<String> = projects.iter().map(|(id, role)| format!("{} in {id}", role.as_str())).collect();
                formatter.write_str(&each.join(", "))
            }
        }
    }
}

documented!(Grants, component "Grants", {
    let all = MetaSchema { description: Some("The role in every project."), ..MetaSchema::ANY };
    let all = MetaSchema { all_of: vec![Role::schema_ref()], ..all };
    let only = MetaSchema {
        description: Some("The role in each of these projects, by id."),
        additional_properties: Some(Box::new(Role::schema_ref())),
        ..MetaSchema::new("object")
    };
    MetaSchema {
        description: Some("Where which role holds: one of the two."),
        properties: vec![("all", MetaSchemaRef::Inline(Box::new(all))), ("only", MetaSchemaRef::Inline(Box::new(only)))],
        example: Some(json!({"only": {"1": "worker"}})),
        ..MetaSchema::new("object")
    }
});
