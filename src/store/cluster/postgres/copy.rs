//! Many rows into one table, in Postgres's binary format: by `COPY`, or by `INSERT` where they are few.
//!
//! A copied row costs Postgres less than a row of `INSERT`: many rows go into a page of the table together, with one
//! record in the write-ahead log. But each `COPY` takes 40 ms longer over TCP: sqlx 0.9.0 sends the rows and their end
//! apart and leaves Nagle's algorithm on, so that the end waits for the delayed acknowledgement of the rows (its issue
//! 4335, mended after 0.9.0).

use std::fmt::Write as _;

use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgConnection, PgTypeInfo};
use sqlx::{Encode, Postgres, Type};
use uuid::Uuid;

use crate::ledger::LedgerError;
use crate::store::cluster::postgres::store::Store;

/// The beginning of the format: its name, no flags, and no extension.
const HEAD: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// The end of the format. It stands in the place of a row's number of columns.
const END: i16 = -1;

/// The length of a value that is NULL.
const NULL: i32 = -1;

/// The most rows that are inserted. They cost less together than the delay of a `COPY`.
const FEW: usize = 512;

/// Rows for one table.
#[derive(Debug)]
pub(crate) struct Rows {
    bytes: Vec<u8>,
    columns: i16,
    count: usize,
}

/// A value in Postgres's binary format, of the type of its column.
struct Value<'a>(&'a [u8]);

impl Type<Postgres> for Value<'_> {
    fn type_info() -> PgTypeInfo {
        // Postgres takes the type of the column.
        PgTypeInfo::with_oid(Oid(0))
    }
}

impl Encode<'_, Postgres> for Value<'_> {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(self.0);
        Ok(IsNull::No)
    }
}

impl Rows {
    /// Creates an empty list of rows with `columns` columns each, and room for about `bytes` bytes.
    pub fn with_room_for(columns: i16, bytes: usize) -> Self {
        let mut room = Vec::with_capacity(HEAD.len() + bytes);
        room.extend(HEAD);
        Self { bytes: room, columns, count: 0 }
    }

    /// Begins a row. The caller then adds one value for each column.
    pub fn row(&mut self) {
        self.bytes.extend(self.columns.to_be_bytes());
        self.count += 1;
    }

    /// Adds a text.
    ///
    /// # Errors
    /// Fails if the text is longer than Postgres accepts.
    pub fn text(&mut self, text: &str) -> Result<(), LedgerError> {
        let length = i32::try_from(text.len()).map_err(|_| LedgerError::Corrupt {
            what: "a text is too long for the database".into(),
        })?;
        self.bytes.extend(length.to_be_bytes());
        self.bytes.extend(text.as_bytes());
        Ok(())
    }

    /// Adds a number of 8 bytes.
    pub fn int(&mut self, number: i64) {
        self.bytes.extend(8_i32.to_be_bytes());
        self.bytes.extend(number.to_be_bytes());
    }

    /// Adds a UUID.
    pub fn uuid(&mut self, id: Uuid) {
        self.bytes.extend(16_i32.to_be_bytes());
        self.bytes.extend(id.as_bytes());
    }

    /// Adds a NULL.
    pub fn null(&mut self) {
        self.bytes.extend(NULL.to_be_bytes());
    }

    /// Writes the rows, if there are any. `into` names the table and its columns: `entries (account, seq)`.
    pub async fn write(
        self,
        into: &str,
        store: &Store,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        match self.count {
            0 => Ok(()),
            1..=FEW => self.insert(into, store, on).await,
            _ => self.copy(into, store, on).await,
        }
    }

    async fn insert(
        self,
        into: &str,
        store: &Store,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        let (mut sql, mut number) = (format!("INSERT INTO {{s}}.{into} VALUES "), 0);
        for row in 0..self.count {
            for column in 0..self.columns {
                number += 1;
                let before = match (row, column) {
                    (0, 0) => "(",
                    (_, 0) => "), (",
                    _ => ", ",
                };
                // Writing to a String cannot fail.
                let _ = write!(sql, "{before}${number}");
            }
        }
        sql.push(')');
        let mut insert = store.query(&sql);
        for value in self.values() {
            insert = insert.bind(value.map(Value));
        }
        insert.execute(on).await?;
        Ok(())
    }

    /// All values of all rows, in order; `None` for NULL.
    fn values(&self) -> impl Iterator<Item = Option<&[u8]>> {
        let mut rest = self.bytes.get(HEAD.len()..).unwrap_or_default();
        let mut left_in_row = 0;
        std::iter::from_fn(move || {
            if left_in_row == 0 {
                (_, rest) = rest.split_first_chunk::<2>()?;
                left_in_row = self.columns;
            }
            left_in_row -= 1;
            let length;
            (length, rest) = rest.split_first_chunk::<4>()?;
            // The length of NULL is negative.
            let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
                return Some(None);
            };
            let value;
            (value, rest) = rest.split_at_checked(length)?;
            Some(Some(value))
        })
    }

    async fn copy(
        mut self,
        into: &str,
        store: &Store,
        on: &mut PgConnection,
    ) -> Result<(), LedgerError> {
        self.bytes.extend(END.to_be_bytes());
        let schema = store.schema();
        let sql = format!("COPY {schema}.{into} FROM STDIN (FORMAT binary)");
        let mut copy = on.copy_in_raw(&sql).await?;
        copy.send(self.bytes).await?;
        copy.finish().await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_postgress_binary_format() {
        let mut rows = Rows::with_room_for(3, 0);
        rows.row();
        rows.text("ab").unwrap();
        rows.int(-2);
        rows.null();
        let (head, row) = rows.bytes.split_at(19);
        assert_eq!(head, b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0");
        let expected =
            b"\0\x03\0\0\0\x02ab\0\0\0\x08\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff\xff";
        assert_eq!(row, expected);
        rows.row();
        (0..3).for_each(|_| rows.null());
        let minus_two = &(-2_i64).to_be_bytes()[..];
        let values: Vec<_> = rows.values().collect();
        assert_eq!(values, [Some(&b"ab"[..]), Some(minus_two), None, None, None, None]);
    }
}
