//! The report of `farebox prices`.

use std::fmt::Display;

use crate::credits::Credits;
use crate::price::config::PackConfig;
use crate::price::margin::{Margin, value_in};
use crate::price::table::PriceTable;

/// A column: its title, and whether it is aligned to the right, as figures are.
type Column = (&'static str, bool);

const ROUTE_COLUMNS: [Column; 6] = [
    ("ROUTE", false),
    ("METHODS", false),
    ("CREDITS", true),
    ("PRICE", true),
    ("OWN COST", true),
    ("MARGIN", true),
];

const PACK_COLUMNS: [Column; 6] = [
    ("PACK", false),
    ("NAME", false),
    ("CREDITS", true),
    ("PRICE", true),
    ("PER CREDIT", true),
    ("BEST VALUE", false),
];

/// The price table with own costs and margins, and the packs below it, as aligned text that ends
/// with a line break. `-` stands for a missing value.
pub fn render_report(table: &PriceTable, packs: &[PackConfig]) -> String {
    let routes = table.routes().iter().map(|route| {
        let margin = Margin::of(route, packs);
        [
            route.label().to_owned(),
            route.methods.to_string(),
            route.credits.to_string(),
            or_dash(margin.revenue),
            or_dash(margin.cost),
            or_dash(margin.shown()),
        ]
    });
    let one_credit = Credits::from_whole(1);
    let packs = packs.iter().map(|pack| {
        [
            pack.id.clone(),
            pack.name().to_owned(),
            pack.credits.to_string(),
            pack.price.to_string(),
            or_dash(one_credit.and_then(|credit| value_in(pack, credit))),
            or_dash(pack.best_value.then_some("yes")),
        ]
    });
    let routes = render(&ROUTE_COLUMNS, routes.collect());
    let packs = render(&PACK_COLUMNS, packs.collect());
    format!("{routes}\n{packs}")
}

fn or_dash(cell: Option<impl Display>) -> String {
    cell.map_or_else(|| "-".to_owned(), |cell| cell.to_string())
}

/// Renders a table with a line of titles above it. A table without rows gets one line of dashes.
fn render<const N: usize>(columns: &[Column; N], mut rows: Vec<[String; N]>) -> String {
    if rows.is_empty() {
        rows.push(std::array::from_fn(|_| "-".to_owned()));
    }
    rows.insert(0, columns.map(|(title, _)| title.to_owned()));
    let width = |column: usize| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(columns).zip(widths).map(|((cell, (_, right)), width)| {
            if *right { format!("{cell:>width$}") } else { format!("{cell:<width$}") }
        });
        let line = cells.collect::<Vec<_>>().join("  ");
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;
    use crate::price::RouteConfig;

    #[derive(Deserialize)]
    struct File {
        routes: Vec<RouteConfig>,
        packs: Vec<PackConfig>,
    }

    #[test]
    fn the_report_lines_up_and_leaves_no_gap() {
        let file: File = toml::from_str(
            "[[routes]]\npath = '/api/ai/generate'\nmethods = ['POST']\nupstream = 'ai'
             credits = 5\ncost = '0.04 EUR'
             [[routes]]\npath = '/free'\nupstream = 'ai'\ncredits = 0
             [[packs]]\nid = 'pack-100'\nname = 'Pack 100'\ncredits = 100\nprice = '19.00 EUR'
             [[packs]]\nid = 'pack-500'\ncredits = 500\nprice = '79.00 EUR'\nbest_value = true",
        )
        .unwrap();
        let table = PriceTable::new(&file.routes, &["ai"]).unwrap();
        let expected = "\
ROUTE             METHODS  CREDITS     PRICE  OWN COST  MARGIN
/api/ai/generate  POST           5  0.95 EUR  0.04 EUR  2275 %
/free             *              0  0.00 EUR         -       -

PACK      NAME      CREDITS      PRICE  PER CREDIT  BEST VALUE
pack-100  Pack 100      100  19.00 EUR    0.19 EUR  -
pack-500  pack-500      500  79.00 EUR   0.158 EUR  yes
";
        assert_eq!(render_report(&table, &file.packs), expected);
    }

    #[test]
    fn an_empty_table_is_shown_as_dashes() {
        let report = render_report(&PriceTable::default(), &[]);
        let dashes: Vec<_> = report.lines().filter(|line| line.starts_with('-')).collect();
        assert_eq!(dashes.len(), 2, "{report}");
    }
}
