//! The sandbox's checkout page, in place of Stripe's.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, header};

use crate::app::App;
use crate::ledger::{Money, Progress, wall_ms};
use crate::price::{PackConfig, Price};
use crate::problem::{Problem, Text};
use crate::stripe::{ReceiveError, Sales, SandboxPage};

/// The page loads nothing, and its forms may lead only to the pages that follow a checkout: a
/// browser enforces this over redirects, too.
fn headers(sales: &Sales) -> [(HeaderName, String); 3] {
    let pages = [true, false].into_iter().filter_map(|paid| sales.after_sandbox(paid));
    let origins = pages.filter_map(|page| reqwest::Url::parse(page).ok());
    let origins: String =
        origins.map(|page| format!(" {}", page.origin().ascii_serialization())).collect();
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'{origins}; frame-ancestors 'none'"
    );
    [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
    ]
}

/// The page's address as the buyer's browser reaches it: with the host that the request was sent
/// to, and with https where a proxy in front reports it.
pub(super) fn seen_from_outside(url: String, request: &HeaderMap) -> String {
    let text = |name: &HeaderName| request.get(name).and_then(|value| value.to_str().ok());
    let host = text(&header::HOST).and_then(|host| host.parse::<Authority>().ok());
    let (Some(host), Some((scheme, rest))) = (host, url.split_once("://")) else { return url };
    let is_tls = text(&HeaderName::from_static("x-forwarded-proto")) == Some("https");
    let scheme = if is_tls { "https" } else { scheme };
    let path = rest.split_once('/').map_or("", |(_, path)| path);
    format!("{scheme}://{host}/{path}")
}

pub(super) async fn show(
    State(app): State<Arc<App>>,
    Path(session): Path<String>,
) -> Result<Response, Problem> {
    let (sales, page) = find(&app, &session).await?;
    let catalogue = app.catalogue.load();
    let pack = catalogue.packs.iter().find(|pack| *pack.id == *page.sale.pack);
    let name = pack.map_or(&*page.sale.pack, PackConfig::name);
    Ok((headers(sales), Html(render(&page, name, &app.topup_url))).into_response())
}

pub(super) async fn pay(
    State(app): State<Arc<App>>,
    Path(session): Path<String>,
) -> Result<Redirect, Problem> {
    end(&app, &session, true).await
}

pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Path(session): Path<String>,
) -> Result<Redirect, Problem> {
    end(&app, &session, false).await
}

async fn end(app: &App, session: &str, paid: bool) -> Result<Redirect, Problem> {
    let (sales, page) = find(app, session).await?;
    let done = sales.sandbox_end(&page, paid, wall_ms() / 1000).await;
    done.map_err(|error: ReceiveError| {
        tracing::error!(%error, "the sandbox's event could not be stored");
        Problem::ledger_unavailable()
    })?;
    // As with Stripe, the buyer goes to the page that `[stripe]` names; the account page is the
    // default.
    let thanks = if paid { "?paid=1" } else { "" };
    let account_page = || format!("{}{thanks}", app.topup_url);
    Ok(Redirect::to(&sales.after_sandbox(paid).map_or_else(account_page, str::to_owned)))
}

async fn find<'a>(app: &'a App, session: &str) -> Result<(&'a Sales, SandboxPage), Problem> {
    let unknown = || {
        Problem::not_found(Text::new(
            "There is no such checkout session.",
            "Cette session de paiement n'existe pas.",
        ))
    };
    let sales = app.sales.as_deref().ok_or_else(unknown)?;
    let page = sales.sandbox_page(session).await.map_err(crate::api::transactions::unreadable)?;
    Ok((sales, page.ok_or_else(unknown)?))
}

fn render(page: &SandboxPage, name: &str, account_page: &str) -> String {
    let SandboxPage { sale, progress } = page;
    let (pack, account) = (escape(name), escape(sale.account.as_str()));
    let (credits, price) = (sale.credits, escape(&shown(&sale.price)));
    let state = match progress {
        Progress::Paid => format!(
            "<p class=done>Paid. <b>{credits}</b> credits were added to <b>{account}</b>.</p>"
        ),
        Progress::Expired => "<p class=done>Cancelled. Nothing was paid.</p>".to_owned(),
        _ => format!(
            "<form method=post action=\"{session}/pay\"><button>Pay {price}</button></form>\
             <form method=post action=\"{session}/cancel\"><button class=quiet>Cancel</button></form>",
            session = escape(&sale.session)
        ),
    };
    format!(
        "<!doctype html><html lang=en><meta charset=utf-8>\
         <meta name=viewport content=\"width=device-width\"><title>Sandbox checkout</title>\
         <style>{STYLE}</style><main><p class=note>Sandbox: no money moves.</p>\
         <h1>{pack}</h1><p>{credits} credits for {account}</p><p class=price>{price}</p>\
         {state}<p><a href=\"{back}\">Back to the account</a></p></main></html>",
        back = escape(account_page),
    )
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;background:#f4f4f2;color:#222}\
    main{max-width:22rem;margin:12vh auto;background:#fff;padding:2rem;border-radius:12px}\
    h1{margin:0}.price{font-size:2rem;margin:.5rem 0 1.5rem}.note{color:#8a5a00;margin-top:0}\
    a{color:inherit}button{width:100%;padding:.8rem;border:0;border-radius:8px;background:#222;color:#fff;\
    font:inherit;cursor:pointer}.quiet{background:none;color:#555;margin-top:.5rem}";

/// An amount such as `79.00 EUR`; as stored where the currency is unknown.
fn shown(money: &Money) -> String {
    let price = money.currency.parse().ok().and_then(|c| Price::from_minor(money.amount, c));
    price.map_or_else(|| format!("{} {}", money.amount, money.currency), |price| price.to_string())
}

/// Escapes text for HTML, also for quoted attributes.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Sale;

    #[test]
    fn the_page_is_where_the_buyer_asked_for_it() {
        let url = "http://0.0.0.0:8080/credits/sandbox/checkout/cs_1";
        let seen = |headers: &[(&'static str, &'static str)]| {
            let headers = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            seen_from_outside(url.to_owned(), &headers.collect())
        };
        let path = "/credits/sandbox/checkout/cs_1";
        assert_eq!(seen(&[("host", "127.0.0.1:9")]), format!("http://127.0.0.1:9{path}"));
        let proxied = [("host", "api.example.com"), ("x-forwarded-proto", "https")];
        assert_eq!(seen(&proxied), format!("https://api.example.com{path}"));
        for odd in [&[][..], &[("host", "a b")], &[("host", "")]] {
            assert_eq!(seen(odd), url);
        }
    }

    #[test]
    fn text_on_the_page_cannot_become_markup() {
        let sale = Sale {
            session: "cs_\"><script>".into(),
            account: "<b>alice</b>".parse().unwrap(),
            pack: "<script>alert(1)</script>".into(),
            credits: "500".parse().unwrap(),
            price: Money { amount: 7900, currency: "eur".into() },
            imported: false,
        };
        let page = render(
            &SandboxPage { sale, progress: Progress::Open },
            "<script>alert(2)</script>",
            "/a",
        );
        assert!(!page.contains("<script>") && !page.contains("<b>alice"), "{page}");
        assert!(page.contains("Pay 79.00 EUR"), "{page}");
    }
}
