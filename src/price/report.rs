//! The report of `farebox prices`.

use std::fmt::Display;

use crate::credits::Credits;
use crate::price::config::PackConfig;
use crate::price::margin::{Margin, value_in};
use crate::price::metered::{CostConfig, Models, Rates, Tariff, UnitPrice, UnitPrices};
use crate::price::metering::RoutePrice;
use crate::price::money::UnitAmount;
use crate::price::table::PriceTable;
use crate::usage::Kind;

/// A column: its title, and whether it is aligned to the right, as numbers are.
type Column = (&'static str, bool);

const ROUTE_COLUMNS: [Column; 6] = [
    ("ROUTE", false),
    ("METHODS", false),
    ("CREDITS", true),
    ("PRICE", true),
    ("OWN COST", true),
    ("MARGIN", true),
];

const USAGE_COLUMNS: [Column; 6] = [
    ("BY USAGE", false),
    ("UNIT", false),
    ("CREDITS", true),
    ("PRICE", true),
    ("OWN COST", true),
    ("MARGIN", true),
];

const MODEL_COLUMNS: [Column; 6] = [
    ("MODEL", false),
    ("UPSTREAM", false),
    ("ASKED FOR AS", false),
    ("INPUT", true),
    ("OUTPUT", true),
    ("OTHER PRICES", false),
];

const PACK_COLUMNS: [Column; 6] = [
    ("PACK", false),
    ("NAME", false),
    ("CREDITS", true),
    ("PRICE", true),
    ("PER CREDIT", true),
    ("BEST VALUE", false),
];

/// The report as aligned text that ends with a line break: the price table with own costs and
/// margins, then the prices by usage, then the packs. `-` stands for a missing value.
pub fn render_report(table: &PriceTable, packs: &[PackConfig], rates: &Rates) -> String {
    let routes = table.routes().iter().map(|route| {
        let margin = Margin::of(route, packs, rates);
        [
            route.label().to_owned(),
            route.methods.to_string(),
            route
                .price
                .fixed()
                .map_or_else(|| "by usage".to_owned(), |credits| credits.to_string()),
            or_dash(margin.revenue),
            or_dash(margin.cost),
            or_dash(margin.shown()),
        ]
    });
    let by_usage = by_usage(table, packs, rates);
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
    if by_usage.is_empty() {
        return format!("{routes}\n{packs}");
    }
    format!("{routes}\n{}\n{packs}", render(&USAGE_COLUMNS, by_usage))
}

/// The models with their upstreams and prices, as aligned text that ends with a line break.
pub fn render_models(models: &Models) -> String {
    let rows = models.all().iter().map(|model| {
        let (base, tariff) = (model.tariff.base(), &model.tariff);
        let mut others: Vec<String> =
            base.request().map(|one| format!("request {one}")).into_iter().collect();
        let is_other = |kind: &Kind| !matches!(kind, Kind::Input | Kind::Output);
        let kinds = base.iter().filter(|(kind, _)| is_other(kind));
        others.extend(kinds.map(|(kind, price)| format!("{} {price}", kind.as_str())));
        others.extend(tariff.is_free().then(|| "free".to_owned()));
        others.extend(tariff.tiers().map(|(bound, _)| format!("others above {bound}")));
        let whens = tariff.whens().count();
        others.extend((whens > 0).then(|| format!("{whens} × when")));
        let others = others.join(", ");
        [
            model.label.to_string(),
            or_dash(model.upstream.as_deref()),
            or_dash(model.rename()),
            or_dash(base.written(Kind::Input)),
            or_dash(base.written(Kind::Output)),
            or_dash(Some(others).filter(|others| !others.is_empty())),
        ]
    });
    render(&MODEL_COLUMNS, rows.collect())
}

/// One row for each price by usage, of models and of routes with unit prices of their own.
fn by_usage(table: &PriceTable, packs: &[PackConfig], rates: &Rates) -> Vec<[String; 6]> {
    let routes = table.routes().iter().filter_map(|route| match &route.price {
        RoutePrice::Units(tariff, _) => Some((route.label(), &**tariff)),
        _ => None,
    });
    let models = table.models().all().iter().map(|model| (&*model.label, &*model.tariff));
    let mut rows = Vec::new();
    for (name, tariff) in models.chain(routes) {
        for (prices, cost, condition) in variants(tariff) {
            for (unit, price, cost) in units(prices, &cost) {
                let margin = Margin::of_unit(price, cost, packs, rates);
                rows.push([
                    name.to_owned(),
                    format!("{unit}{condition}"),
                    price.to_string(),
                    or_dash(margin.revenue),
                    or_dash(margin.cost),
                    or_dash(margin.shown()),
                ]);
            }
        }
        if tariff.is_free() {
            let dash = || "-".to_owned();
            rows.push([name.to_owned(), "free".to_owned(), "0".to_owned(), dash(), dash(), dash()]);
        }
    }
    rows
}

/// The prices of a tariff with their costs, and the words for when they apply.
fn variants(tariff: &Tariff) -> Vec<(&UnitPrices, CostConfig, String)> {
    let mut all = vec![(tariff.base(), tariff.cost().clone(), String::new())];
    for ((wanted, prices), cost) in tariff.whens().zip(tariff.when_costs()) {
        let wanted = wanted.iter().map(|(name, value)| format!("{name} = {value}"));
        all.push((prices, cost, format!(", {}", wanted.collect::<Vec<_>>().join(" and "))));
    }
    let tiers = tariff.tiers().zip(tariff.tier_costs());
    all.extend(tiers.map(|((bound, prices), cost)| (prices, cost, format!(", above {bound}"))));
    all
}

/// Each price that is set, with its unit and the own cost of that unit.
fn units<'p>(
    prices: &'p UnitPrices,
    cost: &'p CostConfig,
) -> impl Iterator<Item = (String, UnitPrice, Option<UnitAmount>)> + 'p {
    let request = prices.request().map(|price| ("request".to_owned(), price, cost.request));
    let kinds = prices.iter().map(|(kind, price)| {
        let per = if kind.is_token() { " / million" } else { "" };
        (format!("{}{per}", kind.as_str()), price, cost.of(kind))
    });
    request.into_iter().chain(kinds)
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
        assert_eq!(render_report(&table, &file.packs, &Rates::default()), expected);
    }

    #[test]
    fn prices_by_usage_are_shown_with_the_margin_of_each_unit() {
        let file: File = toml::from_str(
            "[[routes]]\npath = '/chat'\nmethods = ['POST']\nupstream = 'ai'\nmeter = 'openai'\nprice = 'models'
             [[routes]]\npath = '/draw'\nupstream = 'ai'\nmeter = 'openai'\nprice = { request = '0.5', image = 4, cost = { image = '0.04 EUR' } }
             [[packs]]\nid = 'p'\ncredits = 100\nprice = '19.00 EUR'",
        )
        .unwrap();
        let models = [
            "match = 'gpt-5'\ninput = 250\noutput = 1000\ncost = { input = '2.50 USD', output = '10 EUR' }
             above = [{ input_tokens = 200000, input = 500, cost = { input = '5 USD' } }]
             when = [{ if = { service_tier = 'flex' }, output = 500, cost = { output = '5 EUR' } }]",
            "match = 'llama-*'\nupstream = 'own'\nrename = 'llama-4'\nfree = true",
        ];
        let models = models.map(|text| toml::from_str(text).unwrap());
        let table = PriceTable::new(&file.routes, &["ai"]).unwrap();
        let table = table.with_models(Models::new(&models));
        let rates = Rates::new(&toml::from_str("USD = '0.86 EUR'").unwrap());
        let expected = "\
ROUTE  METHODS   CREDITS  PRICE  OWN COST  MARGIN
/chat  POST     by usage      -         -       -
/draw  *        by usage      -         -       -

BY USAGE  UNIT                                   CREDITS       PRICE   OWN COST  MARGIN
gpt-5     input / million                            250   47.50 EUR   2.50 USD  2109 %
gpt-5     output / million                          1000  190.00 EUR  10.00 EUR  1800 %
gpt-5     output / million, service_tier = flex      500   95.00 EUR   5.00 EUR  1800 %
gpt-5     input / million, above 200000              500   95.00 EUR   5.00 USD  2109 %
llama-*   free                                         0           -          -       -
/draw     request                                    0.5   0.095 EUR          -       -
/draw     image                                        4    0.76 EUR   0.04 EUR  1800 %

PACK  NAME  CREDITS      PRICE  PER CREDIT  BEST VALUE
p     p         100  19.00 EUR    0.19 EUR  -
";
        assert_eq!(render_report(&table, &file.packs, &rates), expected);
        let expected = "\
MODEL    UPSTREAM  ASKED FOR AS  INPUT  OUTPUT  OTHER PRICES
gpt-5    -         -               250    1000  others above 200000, 1 × when
llama-*  own       llama-4           -       -  free
";
        assert_eq!(render_models(table.models()), expected);
    }

    #[test]
    fn an_empty_table_is_shown_as_dashes() {
        let report = render_report(&PriceTable::default(), &[], &Rates::default());
        let dashes: Vec<_> = report.lines().filter(|line| line.starts_with('-')).collect();
        assert_eq!(dashes.len(), 2, "{report}");
    }
}
