//! Imports with payments of an earlier system: their refunds and disputes count here.

use futures_util::future::join_all;
use http::Method;
use serde_json::json;

use crate::backend::{Backend, on_both_ledgers};
use crate::http::Answer;
use crate::process::{fails, ok};
use crate::shop::{PRICE, Shop};

on_both_ledgers!(
    refunds_and_disputes_of_imported_payments_take_credits_back,
    a_row_that_contradicts_an_earlier_one_is_refused,
    a_payment_is_granted_once_however_many_imports_of_it_come_at_once,
    a_payment_that_is_imported_while_it_is_sold_is_granted_once,
    a_file_is_checked_whole_and_taken_whole_beside_a_gateway,
);

/// A purchase in the earlier system: its session, and its payment intent.
async fn bought_before(earlier: &Shop, account: &str) -> (String, String) {
    let session = earlier.buy(account, "pack-500").await;
    let paid = earlier.stripe.pay(&session);
    let intent = paid.iter().find_map(|event| event.object()["payment_intent"].as_str());
    (session, intent.unwrap().to_owned())
}

/// Writes a CSV file with these rows, and returns the arguments that import it.
fn import(shop: &Shop, rows: &str) -> [&'static str; 3] {
    std::fs::write(shop.folder.path().join("accounts.csv"), rows).unwrap();
    ["import", "--csv", "accounts.csv"]
}

async fn refunds_and_disputes_of_imported_payments_take_credits_back(backend: Backend) {
    let earlier = Shop::open(Backend::Embedded).await;
    let (half, half_intent) = bought_before(&earlier, "half").await;
    let (lost, lost_intent) = bought_before(&earlier, "lost").await;
    let (early, early_intent) = bought_before(&earlier, "early").await;
    let shop = Shop::open_at(backend, earlier.stripe.clone(), "").await;
    // The event of this refund comes before the import says whose payment it is.
    shop.deliver_all(&shop.stripe.refund(&early, PRICE / 4).1).await;

    let rows = format!(
        "account,credits,id,payment_intent,paid\n\
         half,500,old-1,{half_intent},\n\
         lost,120,old-2,{lost_intent},79.00 EUR\n\
         early,500,old-3,{early_intent},\n\
         gift,7,old-4,,\n"
    );
    let arguments = import(&shop, &rows);
    for _ in 0..2 {
        ok(shop.folder.path(), &arguments);
        shop.expect_lines("half", &[("grant", 500.0)]).await;
        shop.expect_lines("lost", &[("grant", 120.0)]).await;
        shop.expect_lines("early", &[("grant", 500.0), ("clawback", -125.0)]).await;
        shop.expect_lines("gift", &[("grant", 7.0)]).await;
    }
    let (_, refunded) = shop.stripe.refund(&half, PRICE / 2);
    let (dispute, disputed) = shop.stripe.dispute(&lost, PRICE);
    for event in refunded.iter().chain(&disputed).chain(&refunded) {
        shop.deliver(event).await.expect(200);
    }
    shop.expect_lines("half", &[("grant", 500.0), ("clawback", -250.0)]).await;
    shop.expect_lines("lost", &[("grant", 120.0), ("clawback", -120.0)]).await;
    shop.deliver_all(&shop.stripe.win(&dispute)).await;
    let won = [("grant", 120.0), ("clawback", -120.0), ("reinstatement", 120.0)];
    shop.expect_lines("lost", &won).await;
    // The imported payments are no sales.
    assert!(shop.metrics("farebox_purchases_total").await.iter().all(|(_, sold)| *sold == 0.0));
    ok(shop.folder.path(), &arguments);
    shop.expect_balance("half", 250).await;
    earlier.close().await;
    shop.close().await;
}

async fn a_row_that_contradicts_an_earlier_one_is_refused(backend: Backend) {
    let shop = Shop::open(backend).await;
    let head = "account,credits,id,payment_intent,paid";
    let run = |rows: &str| {
        let arguments = import(&shop, &format!("{head}\n{rows}\n"));
        fails(shop.folder.path(), &arguments, 1)
    };
    let said = run("alice,123,old-1,pi_1,");
    assert!(said.contains("no pack has 123 credits") && said.contains(":2:"), "{said}");
    let said = run("alice,123,old-1,ch_1,1.00 EUR");
    assert!(said.contains("begins with pi_"), "{said}");
    let said = run("alice,123,old-1,pi_1,1 euro");
    assert!(said.contains(":2: paid: "), "{said}");
    assert_eq!(shop.balance("alice").await, 0, "a row that is refused grants nothing");

    let said = run("alice,5,old-1,pi_1,1.00 EUR\nbob,5,old-2,pi_1,1.00 EUR");
    assert!(said.contains(":3: the payment pi_1 is on line 2 already"), "{said}");
    assert_eq!(shop.balance("alice").await, 0, "the whole file is checked first");
    let arguments = import(&shop, &format!("{head}\nalice,5,old-1,pi_1,1.00 EUR\n"));
    ok(shop.folder.path(), &arguments);
    for again in [
        "alice,5,old-1,pi_2,1.00 EUR",
        "alice,5,old-3,pi_1,1.00 EUR",
        "alice,5,old-3,pi_1,2.00 EUR",
        "bob,5,old-3,pi_1,1.00 EUR",
    ] {
        let said = run(again);
        assert!(said.contains(":2: This payment") && said.contains("known already"), "{said}");
        assert!(said.contains("nothing was imported"), "{said}");
    }
    shop.expect_lines("alice", &[("grant", 5.0)]).await;
    assert_eq!(shop.balance("bob").await, 0);
    shop.close().await;
}

/// A grant for a payment of an earlier system, as the admin listener takes it.
async fn grant(shop: &Shop, account: &str, id: &str, intent: &str) -> Answer {
    let payment = json!({ "payment_intent": intent, "paid": "79.00 EUR" });
    let body = json!({ "credits": 500, "id": id, "source": "import", "payment": payment });
    let path = format!("/admin/accounts/{account}/grants");
    shop.gateway.admin(Method::POST, &path, &body.to_string()).await
}

/// The sum of these accounts' balances.
async fn sum(shop: &Shop, accounts: &[String]) -> i64 {
    let mut sum = 0;
    for account in accounts {
        sum += shop.balance(account).await;
    }
    sum
}

async fn a_payment_is_granted_once_however_many_imports_of_it_come_at_once(backend: Backend) {
    let shop = Shop::open(backend).await;
    for round in 0..5 {
        let intent = format!("pi_{round}");
        let accounts: Vec<String> = (0..6).map(|n| format!("account-{round}-{}", n / 2)).collect();
        // Three accounts, two ids each, and each of these twice.
        let asked =
            (0..12).map(|n| {
                let (shop, account, intent) = (&shop, &accounts[n % 6], &intent);
                async move {
                    (n % 6, grant(shop, account, &format!("old-{round}-{}", n % 6), intent).await)
                }
            });
        let mut granted = Vec::new();
        for (n, answer) in join_all(asked).await {
            if answer.status == 200 {
                granted.push(n);
            } else {
                let detail = answer.problem(409, "IDEMPOTENCY_CONFLICT")["detail"].to_string();
                assert!(detail.contains("This payment"), "{detail}");
                assert!(detail.contains("Nothing was granted"), "{detail}");
            }
        }
        // The two requests of the winning gateway get the same answer.
        assert_eq!(granted.len(), 2, "{granted:?}");
        assert_eq!(granted[0], granted[1]);
        let distinct: Vec<String> = (0..3).map(|n| format!("account-{round}-{n}")).collect();
        assert_eq!(sum(&shop, &distinct).await, 500, "round {round}");
        // A request that lost is refused again when it is sent later.
        let other = (granted[0] + 1) % 6;
        let again = grant(&shop, &accounts[other], &format!("old-{round}-{other}"), &intent).await;
        again.problem(409, "IDEMPOTENCY_CONFLICT");
    }
    shop.close().await;
}

async fn a_payment_that_is_imported_while_it_is_sold_is_granted_once(backend: Backend) {
    let shop = Shop::open(backend).await;
    for round in 0..6 {
        let accounts = [format!("buyer-{round}"), format!("other-{round}")];
        let session = shop.buy(&accounts[0], "pack-500").await;
        let events = shop.stripe.pay(&session);
        let intent = events.iter().find_map(|event| event.object()["payment_intent"].as_str());
        let intent = intent.unwrap().to_owned();
        let sold = join_all(events.iter().map(|event| shop.deliver(event)));
        let imports = join_all((0..4).map(|n| {
            let (shop, account, intent) = (&shop, &accounts[n % 2], &intent);
            let id = format!("old-{round}-{n}");
            async move { grant(shop, account, &id, intent).await }
        }));
        // The two requests take turns at being a moment ahead.
        let granted = match round % 2 {
            0 => tokio::join!(sold, imports).1,
            _ => tokio::join!(imports, sold).0,
        };
        let granted = granted.iter().filter(|answer| answer.status == 200).count();
        assert!(granted <= 1, "round {round}: {granted} imports were granted");
        let reconcile = ok(shop.folder.path(), &["stripe", "reconcile", "--since", "1d"]);
        assert_eq!(sum(&shop, &accounts).await, 500, "round {round}: {reconcile}");
    }
    shop.close().await;
}

async fn a_file_is_checked_whole_and_taken_whole_beside_a_gateway(backend: Backend) {
    const ROWS: usize = 2_500;
    let shop = Shop::open_with(backend, "[credits]\nsignup_grant = 12").await;
    let head = "account,credits,id,payment_intent,paid\n";
    let row = |n: usize| match n % 10 {
        0 => format!("customer-{n},0,old-{n},,\n"),
        1 => format!("customer-{n},100,old-{n},pi_{n},19.00 EUR\n"),
        _ => format!("customer-{n},1.5,old-{n},,\n"),
    };
    let good: String = (0..ROWS).map(row).collect();
    shop.gateway.grant("elsewhere", 3, "old-2400").await;
    // One id belongs to another account. The last of three chunks has it, and no row of the first
    // chunk is imported.
    let arguments = import(&shop, &format!("{head}{good}"));
    let said = fails(shop.folder.path(), &arguments, 1);
    assert!(said.contains(":2402: This id was used before"), "{said}");
    assert!(said.contains("1 mistake; nothing was imported"), "{said}");
    assert_eq!(shop.balance("customer-1").await, 0);

    let good = good.replace(",old-2400,", ",old-2400b,");
    let arguments = import(&shop, &format!("{head}{good}"));
    let said = ok(shop.folder.path(), &[&arguments[..], &["--dry-run"]].concat());
    assert!(said.contains("would have imported 2500 rows with 28000 credits; 0 were"), "{said}");
    assert_eq!(shop.balance("customer-1").await, 0);
    let said = ok(shop.folder.path(), &arguments);
    assert!(said.contains("imported 2500 rows with 28000 credits; 0 were"), "{said}");
    let said = ok(shop.folder.path(), &arguments);
    assert!(said.contains("imported 0 rows; 2500 were there already"), "{said}");
    // An imported account without credits is known, and gets no sign-up grant; a stranger does.
    for (account, balance) in [("customer-0", 0), ("customer-1", 100), ("stranger", 12)] {
        shop.call(account).await;
        let left = shop.balance(account).await;
        assert!(left == balance || left == balance - 5, "{account}: {left}");
    }
    shop.close().await;
}
