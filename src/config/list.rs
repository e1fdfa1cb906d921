//! The elements of an array of tables that could be read.

use crate::config::Mistake;

/// The elements of `[[name]]` that could be read, each with its index in the file. A check numbers
/// the elements that it was given, but a message must use their numbers in the file.
pub(crate) struct List<T> {
    pub(crate) name: &'static str,
    pub(crate) items: Vec<T>,
    pub(crate) places: Vec<usize>,
}

impl<T> List<T> {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, items: Vec::new(), places: Vec::new() }
    }

    /// Renumbers `mistakes` about `name[n]`, so that n is the index in the file.
    pub(crate) fn in_file_order(&self, mistakes: Vec<Mistake>) -> Vec<Mistake> {
        let renumber = |mut mistake: Mistake| {
            if let Some(key) = self.renumbered(&mistake.key) {
                mistake.key = key;
            }
            mistake
        };
        mistakes.into_iter().map(renumber).collect()
    }

    fn renumbered(&self, key: &str) -> Option<String> {
        let (index, rest) = key.strip_prefix(self.name)?.strip_prefix('[')?.split_once(']')?;
        let place = self.places.get(index.parse::<usize>().ok()?)?;
        Some(format!("{}[{place}]{rest}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistakes_count_as_the_file_does() {
        let list = List { name: "packs", items: vec!['b', 'd'], places: vec![1, 3] };
        let key = |key: &str| list.in_file_order(vec![Mistake::new(key, "", "")])[0].key.clone();
        assert_eq!(key("packs[1].price"), "packs[3].price");
        assert_eq!(key("packs[0]"), "packs[1]");
        assert_eq!(key("packs"), "packs");
        assert_eq!(key("packs[9].price"), "packs[9].price");
        assert_eq!(key("routes[1].cost"), "routes[1].cost");
    }
}
