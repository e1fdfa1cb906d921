//! The checkout page of the sandbox, which takes the place of Stripe's.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, header};

use crate::api::brand::Brand;
use crate::app::App;
use crate::credits::MICROS_PER_CREDIT;
use crate::ledger::{Money, Progress, Sale, wall_ms};
use crate::price::{PackConfig, Price};
use crate::problem::{Language, Problem, texts};
use crate::stripe::{ReceiveError, Sales, SandboxPage};

/// The state of the handlers.
#[derive(Clone)]
pub(super) struct Sandbox {
    pub app: Arc<App>,
    pub brand: Arc<Brand>,
}

/// Headers that restrict the page. It may load nothing but the seller's logo, and its forms may
/// lead only to the pages that follow a checkout, also through redirects.
fn headers(sales: &Sales, brand: &Brand) -> [(HeaderName, String); 4] {
    let pages = [true, false].into_iter().filter_map(|paid| sales.after_sandbox(paid));
    let origins = pages.filter_map(|page| reqwest::Url::parse(page).ok());
    let origins: String =
        origins.map(|page| format!(" {}", page.origin().ascii_serialization())).collect();
    let images = brand.image_source();
    let policy = format!(
        "default-src 'none'; style-src 'unsafe-inline'; img-src {images}; \
         form-action 'self'{origins}; frame-ancestors 'none'"
    );
    [
        (header::CONTENT_SECURITY_POLICY, policy),
        (header::CACHE_CONTROL, "no-store".to_owned()),
        (header::REFERRER_POLICY, "no-referrer".to_owned()),
        (header::VARY, "accept-language".to_owned()),
    ]
}

/// Rewrites the page's address so that the buyer's browser can reach it: with the host that the
/// request was sent to, and with https if a proxy in front reports it.
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
    State(Sandbox { app, brand }): State<Sandbox>,
    Path(session): Path<String>,
    request: HeaderMap,
) -> Result<Response, Problem> {
    let (sales, SandboxPage { sale, progress }) = find(&app, &session).await?;
    let catalogue = app.catalogue.load();
    let pack = catalogue.packs.iter().find(|pack| *pack.id == *sale.pack);
    let page = Page {
        sale: &sale,
        progress,
        pack: pack.map_or(&*sale.pack, PackConfig::name),
        account: app.identifier.name_of(&sale.account),
        seller: brand.name_and_logo(),
        account_page: &app.topup_url,
        language: Language::of(&request),
    };
    Ok((headers(sales, &brand), Html(page.render())).into_response())
}

pub(super) async fn pay(
    State(Sandbox { app, .. }): State<Sandbox>,
    Path(session): Path<String>,
) -> Result<Redirect, Problem> {
    end(&app, &session, true).await
}

pub(super) async fn cancel(
    State(Sandbox { app, .. }): State<Sandbox>,
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
    // As after Stripe's checkout, the buyer is sent to the page that `[stripe]` names, or to the
    // account page if it names none.
    let thanks = if paid { "?paid=1" } else { "" };
    let account_page = || format!("{}{thanks}", app.topup_url);
    Ok(Redirect::to(&sales.after_sandbox(paid).map_or_else(account_page, str::to_owned)))
}

async fn find<'a>(app: &'a App, session: &str) -> Result<(&'a Sales, SandboxPage), Problem> {
    let unknown = || Problem::not_found(texts::UNKNOWN_SESSION);
    let sales = app.sales.as_deref().ok_or_else(unknown)?;
    let page = sales.sandbox_page(session).await.map_err(crate::api::transactions::unreadable)?;
    Ok((sales, page.ok_or_else(unknown)?))
}

/// The content of the page.
struct Page<'a> {
    sale: &'a Sale,
    progress: Progress,
    /// The pack's name.
    pack: &'a str,
    /// The account's name.
    account: &'a str,
    /// The seller's name, and the address of the logo.
    seller: (Option<&'a str>, Option<&'a str>),
    /// The address of the account page.
    account_page: &'a str,
    language: Language,
}

impl Page<'_> {
    fn render(&self) -> String {
        let lang = self.choose("en", "fr");
        let (credits, account) = (self.credits(), escape(self.account));
        let price = escape(&self.decimal(shown(&self.sale.price)));
        format!(
            "<!doctype html><html lang={lang}><meta charset=utf-8>\
             <meta name=viewport content=\"width=device-width\"><title>{title}</title>\
             <style>{STYLE}</style><main>{seller}<p class=note>{note}</p>\
             <h1>{pack}</h1><p>{credits} {to} {account}</p><p class=price>{price}</p>\
             {state}<p><a href=\"{back}\">{back_text}</a></p></main></html>",
            title = self.choose("Sandbox checkout", "Paiement d’essai"),
            seller = self.seller(),
            note = self.choose("Sandbox: no money moves.", "Bac à sable : aucun paiement réel."),
            pack = escape(self.pack),
            to = self.choose("for", "pour"),
            state = self.state(&price),
            back = escape(self.account_page),
            back_text = self.choose("Back to the account", "Retour au compte"),
        )
    }

    /// The result of the checkout if it has ended; otherwise the buttons that end it.
    fn state(&self, price: &str) -> String {
        let (account, credits) =
            (escape(self.account), self.decimal(self.sale.credits.to_string()));
        match (self.progress, self.language) {
            (Progress::Paid, Language::English) => {
                let were = if credits == "1" { "credit was" } else { "credits were" };
                format!(
                    "<p class=done>Paid. <b>{credits}</b> {were} added to <b>{account}</b>.</p>"
                )
            }
            (Progress::Paid, Language::French) => {
                let added = match self.is_plural() {
                    true => "crédits ont été ajoutés",
                    false => "crédit a été ajouté",
                };
                format!("<p class=done>Payé. <b>{credits}</b> {added} à <b>{account}</b>.</p>")
            }
            (Progress::Expired, _) => format!(
                "<p class=done>{}</p>",
                self.choose("Cancelled. Nothing was paid.", "Annulé. Rien n’a été payé.")
            ),
            _ => format!(
                "<form method=post action=\"{session}/pay\"><button>{pay} {price}</button></form>\
                 <form method=post action=\"{session}/cancel\"><button class=quiet>{cancel}</button></form>",
                session = escape(&self.sale.session),
                pay = self.choose("Pay", "Payer"),
                cancel = self.choose("Cancel", "Annuler"),
            ),
        }
    }

    /// The seller's logo and name; empty if neither is set.
    fn seller(&self) -> String {
        let (name, logo) = self.seller;
        let logo = logo.map(|logo| format!("<img src=\"{}\" alt=\"\">", escape(logo)));
        let name = name.map(|name| format!("<b>{}</b>", escape(name)));
        match (logo, name) {
            (None, None) => String::new(),
            (logo, name) => format!(
                "<p class=seller>{}{}</p>",
                logo.unwrap_or_default(),
                name.unwrap_or_default()
            ),
        }
    }

    /// The credits with their unit.
    fn credits(&self) -> String {
        let credits = self.decimal(self.sale.credits.to_string());
        let unit = match self.is_plural() {
            true => self.choose("credits", "crédits"),
            false => self.choose("credit", "crédit"),
        };
        format!("{credits} {unit}")
    }

    /// Whether the amount takes the plural. In English only 1 is singular, in French every amount
    /// below 2 is.
    fn is_plural(&self) -> bool {
        let micros = self.sale.credits.micros();
        match self.language {
            Language::English => micros != MICROS_PER_CREDIT,
            Language::French => micros >= 2 * MICROS_PER_CREDIT,
        }
    }

    /// A decimal with the language's separator.
    fn decimal(&self, digits: String) -> String {
        match self.language {
            Language::English => digits,
            Language::French => digits.replace('.', ","),
        }
    }

    fn choose<'t>(&self, en: &'t str, fr: &'t str) -> &'t str {
        match self.language {
            Language::English => en,
            Language::French => fr,
        }
    }
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;background:#f4f4f2;color:#222}\
    main{max-width:22rem;margin:12vh auto;background:#fff;padding:2rem;border-radius:12px}\
    h1{margin:0}.price{font-size:2rem;margin:.5rem 0 1.5rem}.note{color:#8a5a00;margin-top:0}\
    .seller{display:flex;align-items:center;gap:.75rem;margin:0 0 1rem;overflow-wrap:anywhere}img{max-height:2.5rem;max-width:50%}\
    a{color:inherit}button{width:100%;padding:.8rem;border:0;border-radius:8px;background:#222;color:#fff;\
    font:inherit;cursor:pointer}.quiet{background:none;color:#555;margin-top:.5rem}";

/// An amount such as `79.00 EUR`. If the currency is unknown, it is shown as stored.
fn shown(money: &Money) -> String {
    let price = money.currency.parse().ok().and_then(|c| Price::from_minor(money.amount, c));
    price.map_or_else(|| format!("{} {}", money.amount, money.currency), |price| price.to_string())
}

/// Escapes text for HTML, including quoted attributes.
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
        let page = Page {
            sale: &sale,
            progress: Progress::Open,
            pack: "<script>alert(2)</script>",
            account: sale.account.as_str(),
            seller: (Some("<script>"), Some("\"><script>")),
            account_page: "/a",
            language: Language::English,
        };
        let page = page.render();
        assert!(!page.contains("<script>") && !page.contains("<b>alice"), "{page}");
        assert!(page.contains("Pay 79.00 EUR"), "{page}");
    }
}
