//! Decodes forms with nested values, as Stripe writes them:
//! `line_items[0][price_data][currency]=eur`.

use reqwest::Url;
use serde_json::{Map, Value};

/// The form as nested JSON of objects and lists. All values are texts.
///
/// # Errors
/// A key that cannot be read, or that contradicts another one.
pub fn decode(form: &str) -> Result<Value, String> {
    let mut url = Url::parse("http://form/").unwrap();
    url.set_query(Some(form));
    let mut tree = Value::Object(Map::new());
    for (key, value) in url.query_pairs() {
        let path = path(&key)?;
        put(&mut tree, &path, &value).ok_or_else(|| format!("Invalid {key}: it is there twice"))?;
    }
    Ok(lists(tree))
}

/// Splits a key into its names: `a[b][0][]` → a, b, 0, and an empty name, which stands for the next
/// element.
fn path(key: &str) -> Result<Vec<String>, String> {
    let wrong = || format!("Invalid parameter name: {key}");
    let (first, mut rest) = key.split_at(key.find('[').unwrap_or(key.len()));
    let mut path = vec![first.to_owned()];
    while let Some(open) = rest.strip_prefix('[') {
        let (name, after) = open.split_once(']').ok_or_else(wrong)?;
        path.push(name.to_owned());
        rest = after;
    }
    if first.is_empty() || !rest.is_empty() { Err(wrong()) } else { Ok(path) }
}

fn put(tree: &mut Value, path: &[String], value: &str) -> Option<()> {
    let map = tree.as_object_mut()?;
    let name = if path[0].is_empty() { map.len().to_string() } else { path[0].clone() };
    if path.len() == 1 {
        let before = map.insert(name, value.into());
        return before.is_none().then_some(());
    }
    let inner = map.entry(name).or_insert_with(|| Value::Object(Map::new()));
    put(inner, &path[1..], value)
}

/// Turns objects whose names are 0, 1, 2, … into lists.
fn lists(tree: Value) -> Value {
    let Value::Object(map) = tree else { return tree };
    let list = !map.is_empty() && (0..map.len()).all(|n| map.contains_key(&n.to_string()));
    if list {
        let mut map = map;
        let values = (0..map.len()).collect::<Vec<_>>().into_iter();
        return values.map(|n| lists(map.remove(&n.to_string()).unwrap())).collect();
    }
    map.into_iter().map(|(name, value)| (name, lists(value))).collect::<Map<_, _>>().into()
}
