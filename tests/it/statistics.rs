//! What PostgreSQL's planner knows of tables that grow in moments.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Process, TestDatabase, eventually};
