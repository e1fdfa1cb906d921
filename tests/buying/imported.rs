//! `farebox import --csv` with payments of an earlier system: their refunds and disputes count here.

use crate::backend::{Backend, on_both_ledgers};
use crate::process::{fails, ok};
use crate::shop::{PRICE, Shop};

on_both_ledgers!(
    refunds_and_disputes_of_imported_payments_take_credits_back,
    a_row_that_contradicts_an_earlier_one_is_refused,
);

/// A purchase in the earlier system: its session, and its payment intent.
async fn bought_before(earlier: &Shop, account: &str) -> (String, String) {
    let session = earlier.buy(account, "pack-500").await;
    let paid = earlier.stripe.pay(&session);
    let intent = paid.iter().find_map(|event| event.object()["payment_intent"].as_str());
    (session, intent.unwrap().to_owned())
}

fn import(shop: &Shop, rows: &str) -> Vec<String> {
    std::fs::write(shop.folder.path().join("accounts.csv"), rows).unwrap();
    ["import", "--csv", "accounts.csv"].map(str::to_owned).into()
}

async fn refunds_and_disputes_of_imported_payments_take_credits_back(backend: Backend) {
    let earlier = Shop::open(Backend::Embedded).await;
    let (half, half_intent) = bought_before(&earlier, "half").await;
    let (lost, lost_intent) = bought_before(&earlier, "lost").await;
    let (early, early_intent) = bought_before(&earlier, "early").await;
    let shop = Shop::open_at(backend, earlier.stripe.clone(), "").await;
    // Heard of before anybody knows whose it is.
    shop.deliver_all(&shop.stripe.refund(&early, PRICE / 4).1).await;

    let rows = format!(
        "account,credits,id,payment_intent,paid\n\
         half,500,old-1,{half_intent},\n\
         lost,120,old-2,{lost_intent},79.00 EUR\n\
         early,500,old-3,{early_intent},\n\
         gift,7,old-4,,\n"
    );
    let arguments = import(&shop, &rows);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    for _ in 0..2 {
        assert!(ok(shop.folder.path(), &arguments).contains("4 of 4"));
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
    // Nothing was sold here.
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
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        fails(shop.folder.path(), &arguments, 1)
    };
    let said = run("alice,123,old-1,pi_1,");
    assert!(said.contains("no pack has 123 credits") && said.contains(":2:"), "{said}");
    let said = run("alice,123,old-1,ch_1,1.00 EUR");
    assert!(said.contains("begins with pi_"), "{said}");
    let said = run("alice,123,old-1,pi_1,1 euro");
    assert!(said.contains("`paid`"), "{said}");
    assert_eq!(shop.balance("alice").await, 0, "a row that is refused grants nothing");

    let said = run("alice,5,old-1,pi_1,1.00 EUR\nbob,5,old-2,pi_1,1.00 EUR");
    assert!(said.contains("known already"), "{said}");
    for again in [
        "alice,5,old-1,pi_2,1.00 EUR",
        "alice,5,old-3,pi_1,1.00 EUR",
        "alice,5,old-3,pi_1,2.00 EUR",
        "bob,5,old-3,pi_1,1.00 EUR",
    ] {
        let said = run(again);
        assert!(said.contains("known already") && said.contains("Nothing was granted"), "{said}");
    }
    shop.expect_lines("alice", &[("grant", 5.0)]).await;
    assert_eq!(shop.balance("bob").await, 0);
    shop.close().await;
}
