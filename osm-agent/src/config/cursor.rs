//! Walks a tree of values and knows where it is, so that an error can say so.

use super::{
    error::{self, Error},
    node::Node,
};

/// One place in a file: what stands there, and how it is reached.
pub(crate) struct Cursor<'a> {
    origin: &'a str,
    path: String,
    /// `None` where the file does not say anything.
    node: Option<&'a Node>,
}

impl<'a> Cursor<'a> {
    /// The whole file.
    pub(crate) const fn root(origin: &'a str, node: &'a Node) -> Self {
        Self {
            origin,
            path: String::new(),
            node: Some(node),
        }
    }

    /// A field of the mapping that is here. It is absent if there is nothing here, or null.
    pub(crate) fn field(&self, name: &str) -> Result<Self, Error> {
        let node = match self.node {
            None | Some(Node::Null) => None,
            Some(Node::Map(map)) => map.get(name),
            Some(_) => return Err(self.unexpected("a mapping")),
        };
        let name = error::name(name);
        let path = if self.path.is_empty() {
            name
        } else {
            format!("{}.{name}", self.path)
        };
        Ok(Self {
            origin: self.origin,
            path,
            node,
        })
    }

    /// What is here, if anything.
    pub(crate) const fn node(&self) -> Option<&'a Node> {
        self.node
    }

    /// The names of the mapping that is here.
    pub(crate) fn names(&self) -> Result<Vec<&'a str>, Error> {
        match self.node {
            None | Some(Node::Null) => Ok(Vec::new()),
            Some(Node::Map(map)) => Ok(map.keys().map(String::as_str).collect()),
            Some(_) => Err(self.unexpected("a mapping")),
        }
    }

    /// The list that is here, each item read by `read`, which else says what it expected.
    /// Nothing and null are the empty list.
    pub(crate) fn list<T, L: FromIterator<T>>(
        &self,
        expected: &str,
        read: impl Fn(&Node) -> Result<T, String>,
    ) -> Result<L, Error> {
        let items = match self.node {
            None | Some(Node::Null) => &[],
            Some(Node::List(items)) => items.as_slice(),
            Some(_) => return Err(self.unexpected(expected)),
        };
        let read_at = |(index, item)| {
            read(item).map_err(|expected| {
                let at = Self {
                    origin: self.origin,
                    path: format!("{}[{index}]", self.path),
                    node: Some(item),
                };
                at.unexpected(&expected)
            })
        };
        items.iter().enumerate().map(read_at).collect()
    }

    /// The text that is here; `None` where there is nothing, or null.
    pub(crate) fn text(&self, expected: &str) -> Result<Option<&'a str>, Error> {
        match self.node {
            None | Some(Node::Null) => Ok(None),
            Some(Node::Text(text)) => Ok(Some(text)),
            Some(_) => Err(self.unexpected(expected)),
        }
    }

    /// The error that something else was expected here.
    pub(crate) fn unexpected(&self, expected: &str) -> Error {
        let field = if self.path.is_empty() {
            "the document"
        } else {
            &self.path
        };
        Error::Field {
            origin: self.origin.to_owned(),
            field: field.to_owned(),
            found: self
                .node
                .map_or_else(|| "missing".to_owned(), Node::describe),
            expected: expected.to_owned(),
        }
    }
}
