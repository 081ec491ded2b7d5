//! Pages of lists.

use super::{Client, Error, LargePage, Query, Row, query::Params};

/// How many bytes the rows of a page may have, so that what a server holds for its callers is bounded.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Which part of a list is wanted. Lists are in the order of their ids.
#[derive(Debug, Clone, Copy)]
pub struct Page<Id> {
    /// Only what comes after this id (keyset paging: as fast on the last page as on the first).
    pub after: Id,
    /// How many to pass over.
    pub skip: i64,
    /// How many at most.
    pub limit: i64,
}

/// A page of a list.
#[derive(Debug)]
pub struct Listing<T> {
    /// The page.
    pub items: Vec<T>,
    /// How many there are on all pages together.
    pub total: i64,
    /// Held as long as the page is.
    large: Option<LargePage>,
}

impl<T> Listing<T> {
    /// Runs a `list*.sql` statement: each row carries the total, and the only row of an empty page has no id.
    ///
    /// # Errors
    ///
    /// [`Error::TooLarge`], or that of the statement.
    pub async fn read(
        list: Query,
        client: &Client,
        params: Params<'_>,
        item: impl Fn(&Row) -> T,
        is_empty: impl Fn(&Row) -> bool,
    ) -> Result<Self, Error> {
        let (rows, large) = list.within(MAX_BYTES, client, params).await?;
        let total = rows.first().map_or(0, |row| row.get("total"));
        let items = rows.iter().filter(|row| !is_empty(row)).map(item).collect();
        Ok(Self { items, total, large })
    }

    /// The same page of something else.
    pub fn map<U>(self, item: impl FnMut(T) -> U) -> Listing<U> {
        Listing { items: self.items.into_iter().map(item).collect(), total: self.total, large: self.large }
    }
}

/// Whether a list's row is the one that stands for an empty page of things with numbers as ids.
pub fn no_number(row: &Row) -> bool {
    row.get::<_, Option<i64>>("id").is_none()
}
