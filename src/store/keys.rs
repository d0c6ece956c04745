//! Names and keyed hashes as the store's columns.

use rusqlite::{
    ToSql,
    types::{FromSql, FromSqlResult, ToSqlOutput, ValueRef},
};

use crate::{
    names::EngineName,
    naming::{BuildKey, ImageName, InputKey, JobKey, LongName, MountsKey, NamespaceKey},
};

macro_rules! written {
    ($($name:ty),*) => {$(
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(self.as_str().into())
            }
        }
    )*};
}

macro_rules! read {
    ($($name:ty),*) => {$(
        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
                value.as_str().map(Self::stored)
            }
        }
    )*};
}

written!(EngineName, ImageName, NamespaceKey, JobKey, MountsKey, BuildKey, InputKey, LongName);
// Of an engine's name, and of an image's, a row proves nothing: the configuration and the node's secret may have changed.
read!(NamespaceKey, MountsKey, LongName);

#[cfg(test)]
mod tests {
    use super::*;

    impl From<&str> for EngineName {
        fn from(name: &str) -> Self {
            Self::try_from(name.to_owned()).unwrap()
        }
    }

    impl From<&str> for ImageName {
        fn from(name: &str) -> Self {
            Self::any(name)
        }
    }
}
