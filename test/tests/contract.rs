//! The REST contract, route by route, through the gateway: success, each failure, and input that is not of the form it should have.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use http::Method;
use serde_json::json;
use testing::books::Books;
use testing::client::Client;
use testing::platform::{Options, Platform};

/// The largest amount.
const MAX: u64 = 9_007_199_254_740_991;

/// Not a whole number from 0 to [`MAX`]. (An empty segment is another path.)
const NO_AMOUNTS: [&str; 17] = [
    "-1",
    "-0",
    "+1",
    "1.0",
    "0.5",
    "1e3",
    "1E3",
    "abc",
    "NaN",
    "0x10",
    "1_000",
    "1%20",
    "%31.5",
    "9007199254740992",
    "18446744073709551616",
    "99999999999999999999999999",
    "%D9%A1",
];

/// Not ids: an unknown alphabet, or percent signs that encode nothing.
const NO_IDS: [&str; 9] =
    ["a%20b", "%F0%9F%92%A5", "%C3%A9", "%00", "a%3Ab", "a.b", "%7Bx%7D", "..%2F..%2Fetc", "%0D%0AX:%20y"];

/// Everything that the databases hold, except operation records: what a refused request must leave as it was.
async fn everything(platform: &Platform) -> Books {
    Books::read(platform).await
}

#[tokio::test(flavor = "multi_thread")]
async fn payment_keeps_its_contract() {
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    let user = client.user(0).await;
    let found = client.get(&format!("/payment/find_user/{user}")).await.expect_status(200);
    assert_eq!(found.header("content-type"), "application/json");
    assert_eq!(found.json(), json!({ "user_id": user, "credit": 0 }));
    client.post(&format!("/payment/add_funds/{user}/50")).await.expect_status(200);
    client.post(&format!("/payment/pay/{user}/20")).await.expect_status(200);
    client.post(&format!("/payment/pay/{user}/0")).await.expect_status(200);
    assert_eq!(client.credit(&user).await, 30);
    assert!(client.post("/payment/batch_init/3/7").await.expect_status(200).json()["msg"].is_string());
    assert_eq!((client.credit("0").await, client.credit("2").await), (7, 7));

    let before = everything(&platform).await;
    client.post(&format!("/payment/pay/{user}/31")).await.expect_problem(400, "insufficient-credit", &user);
    client.get("/payment/find_user/nobody").await.expect_problem(404, "not-found", "nobody");
    client.get("/payment/find_user/3").await.expect_problem(404, "not-found", "3");
    client.post("/payment/add_funds/nobody/1").await.expect_problem(404, "not-found", "nobody");
    client.post("/payment/pay/nobody/1").await.expect_problem(404, "not-found", "nobody");
    client.post(&format!("/payment/add_funds/{user}/{MAX}")).await.expect_problem(400, "overflow", &user);
    client.post(&format!("/payment/batch_init/2/{MAX}")).await.expect_problem(400, "overflow", &MAX.to_string());
    client.post("/payment/batch_init/1000001/1").await.expect_problem(400, "malformed", "1000001");
    for amount in NO_AMOUNTS {
        for path in ["add_funds", "pay"] {
            client.post(&format!("/payment/{path}/{user}/{amount}")).await.expect_problem(400, "malformed", "amount");
        }
        client.post(&format!("/payment/batch_init/{amount}/1")).await.expect_problem(400, "malformed", "n ");
        client.post(&format!("/payment/batch_init/1/{amount}")).await.expect_problem(
            400,
            "malformed",
            "starting_money",
        );
    }
    assert_eq!(everything(&platform).await, before, "a refused request changed something");
    // The largest credit can be reached and spent.
    client.post(&format!("/payment/add_funds/{user}/{}", MAX - 30)).await.expect_status(200);
    assert_eq!(client.credit(&user).await, MAX);
    client.post(&format!("/payment/pay/{user}/{MAX}")).await.expect_status(200);
    assert_eq!(client.credit(&user).await, 0);
    Books::closed(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_keeps_its_contract() {
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    let item = client.item(9, 0).await;
    assert_eq!(client.get(&format!("/stock/find/{item}")).await.json(), json!({ "stock": 0, "price": 9 }));
    client.post(&format!("/stock/add/{item}/50")).await.expect_status(200);
    client.post(&format!("/stock/subtract/{item}/20")).await.expect_status(200);
    client.post(&format!("/stock/subtract/{item}/0")).await.expect_status(200);
    assert_eq!(client.pieces(&item).await, 30);
    let free = client.item(0, 1).await;
    assert_eq!(client.get(&format!("/stock/find/{free}")).await.json(), json!({ "stock": 1, "price": 0 }));
    assert!(client.post("/stock/batch_init/3/7/2").await.expect_status(200).json()["msg"].is_string());
    assert_eq!(client.get("/stock/find/2").await.json(), json!({ "stock": 7, "price": 2 }));

    let before = everything(&platform).await;
    client.post(&format!("/stock/subtract/{item}/31")).await.expect_problem(400, "out-of-stock", &item);
    client.get("/stock/find/nothing").await.expect_problem(404, "not-found", "nothing");
    client.post("/stock/add/nothing/1").await.expect_problem(404, "not-found", "nothing");
    client.post("/stock/subtract/nothing/1").await.expect_problem(404, "not-found", "nothing");
    client.post(&format!("/stock/add/{item}/{MAX}")).await.expect_problem(400, "overflow", &item);
    client.post(&format!("/stock/batch_init/2/{MAX}/1")).await.expect_problem(400, "overflow", &MAX.to_string());
    for amount in NO_AMOUNTS {
        for path in ["add", "subtract"] {
            client.post(&format!("/stock/{path}/{item}/{amount}")).await.expect_problem(400, "malformed", "amount");
        }
        client.post(&format!("/stock/item/create/{amount}")).await.expect_problem(400, "malformed", "price");
        client.post(&format!("/stock/batch_init/{amount}/1/1")).await.expect_problem(400, "malformed", "n ");
        client.post(&format!("/stock/batch_init/1/{amount}/1")).await.expect_problem(
            400,
            "malformed",
            "starting_stock",
        );
        client.post(&format!("/stock/batch_init/1/1/{amount}")).await.expect_problem(400, "malformed", "item_price");
    }
    assert_eq!(everything(&platform).await, before, "a refused request changed something");
    client.post(&format!("/stock/item/create/{MAX}")).await.expect_status(200);
    Books::closed(&platform).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_keep_their_contract() {
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    let (user, item) = (client.user(0).await, client.item(3, 0).await);
    let order = client.order(&user, &[]).await;
    let empty = json!({ "order_id": order, "paid": false, "items": [], "user_id": user, "total_cost": 0 });
    assert_eq!(client.find_order(&order).await, empty);
    for (quantity, total) in [(2, "6"), (1, "9"), (0, "9")] {
        let answer = client.post(&format!("/orders/addItem/{order}/{item}/{quantity}")).await.expect_status(200);
        assert!(answer.text().ends_with(&format!(" {total}")), "{}", answer.text());
    }
    let found = client.find_order(&order).await;
    assert_eq!(found["items"], json!([[item, 2], [item, 1], [item, 0]]), "the same item twice is two entries");
    assert_eq!(found["total_cost"], 9);
    client.batch_orders(3, 5, 7, 4).await;
    let found = client.find_order("2").await;
    assert_eq!((&found["total_cost"], &found["paid"]), (&json!(8), &json!(false)));
    assert!(found["user_id"].as_str().unwrap().parse::<u64>().unwrap() < 7);
    for entry in found["items"].as_array().unwrap() {
        assert!(entry[0].as_str().unwrap().parse::<u64>().unwrap() < 5 && entry[1] == 1, "{found}");
    }
    let dear = client.item(MAX, 0).await;

    let before = everything(&platform).await;
    client.get("/orders/find/none").await.expect_problem(404, "not-found", "none");
    client.get("/orders/find/3").await.expect_problem(404, "not-found", "3");
    client.post(&format!("/orders/addItem/none/{item}/1")).await.expect_problem(404, "not-found", "none");
    client.post(&format!("/orders/addItem/{order}/nothing/1")).await.expect_problem(404, "not-found", "nothing");
    client.post("/orders/checkout/none").await.expect_problem(404, "not-found", "none");
    client.get("/orders/saga/none.k.0").await.expect_problem(404, "not-found", "none.k.0");
    client.get("/orders/saga/none").await.expect_problem(400, "malformed", "none");
    let key = [("idempotency-key", "nothing")];
    for _ in 0..2 {
        let path = format!("/orders/addItem/{order}/nothing/2");
        client.post_with(&path, &key).await.expect_problem(404, "not-found", "nothing");
        let other = format!("/orders/addItem/{order}/{item}/2");
        client.post_with(&other, &key).await.expect_problem(422, "idempotency-key-mismatch", &other);
    }
    client.post(&format!("/orders/addItem/{order}/{dear}/2")).await.expect_problem(400, "overflow", "2");
    client.post(&format!("/orders/addItem/{order}/{dear}/1")).await.expect_problem(400, "overflow", &order);
    client.post(&format!("/orders/batch_init/1/1/1/{MAX}")).await.expect_problem(400, "overflow", &MAX.to_string());
    client.post("/orders/batch_init/1/0/1/1").await.expect_problem(400, "malformed", "n_items");
    client.post("/orders/batch_init/1/1/0/1").await.expect_problem(400, "malformed", "n_users");
    for amount in NO_AMOUNTS {
        client.post(&format!("/orders/addItem/{order}/{item}/{amount}")).await.expect_problem(
            400,
            "malformed",
            "quantity",
        );
        for (n, name) in ["n ", "n_items", "n_users", "item_price"].into_iter().enumerate() {
            let mut numbers = ["1"; 4];
            numbers[n] = amount;
            client.post(&format!("/orders/batch_init/{}", numbers.join("/"))).await.expect_problem(
                400,
                "malformed",
                name,
            );
        }
    }
    assert_eq!(everything(&platform).await, before, "a refused request changed something");
    Books::closed(&platform).await;
}

/// Every place in a path where an id stands.
fn paths_with(id: &str) -> [(Method, String, &'static str); 11] {
    [
        (Method::POST, format!("/orders/create/{id}"), "user_id"),
        (Method::POST, format!("/orders/addItem/{id}/1/1"), "order_id"),
        (Method::POST, format!("/orders/addItem/1/{id}/1"), "item_id"),
        (Method::GET, format!("/orders/find/{id}"), "order_id"),
        (Method::POST, format!("/orders/checkout/{id}"), "order_id"),
        (Method::GET, format!("/payment/find_user/{id}"), "user_id"),
        (Method::POST, format!("/payment/add_funds/{id}/1"), "user_id"),
        (Method::POST, format!("/payment/pay/{id}/1"), "user_id"),
        (Method::GET, format!("/stock/find/{id}"), "item_id"),
        (Method::POST, format!("/stock/add/{id}/1"), "item_id"),
        (Method::POST, format!("/stock/subtract/{id}/1"), "item_id"),
    ]
}

async fn send(client: &Client, method: &Method, path: &str) -> testing::client::Answer {
    let answer = client.send(method.clone(), path, &[]).await;
    answer.unwrap_or_else(|error| panic!("{method} {}: {error}", &path[..path.len().min(100)]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_id_is_refused_everywhere_and_changes_nothing() {
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    client.batch_users(2, 10).await;
    client.batch_items(2, 10, 1).await;
    client.batch_orders(2, 2, 2, 1).await;
    let before = everything(&platform).await;
    let long = "x".repeat(10_000);
    for id in NO_IDS.into_iter().chain([long.as_str()]) {
        for (method, path, name) in paths_with(id) {
            // What nginx, the gateway elsewhere, cannot read it refuses itself, and it knows no parameters.
            let name = if id == "%00" && platform.is_elsewhere() { "cannot be read" } else { name };
            send(&client, &method, &path).await.expect_problem(400, "malformed", name);
        }
    }
    // Percent signs that encode nothing, and bytes that are no UTF-8. What they are is said, whatever the parameter is called.
    for id in ["%zz", "%", "%FF%FE", "%C3%28"] {
        for (method, path, _) in paths_with(id) {
            let answer = send(&client, &method, &path).await;
            assert!((400..500).contains(&answer.status), "{method} {path}: {} {}", answer.status, answer.text());
            assert_eq!(answer.header("content-type"), "application/problem+json", "{method} {path}");
        }
    }
    // Nothing at all is no id either, where the path still is one.
    for path in
        ["/orders/addItem//1/1", "/orders/addItem/1//1", "/payment/add_funds//1", "/payment/pay//1", "/stock/add//1"]
    {
        client.post(path).await.expect_problem(400, "malformed", "empty");
    }
    for path in ["/payment/add_funds/1/", "/stock/add/1/", "/orders/addItem/1/1/"] {
        client.post(path).await.expect_problem(404, "no-such-route", path);
    }
    // An id may be written with percent signs, too.
    assert_eq!(client.get("/payment/find_user/%30").await.expect_status(200).json()["user_id"], "0");
    assert_eq!(everything(&platform).await, before, "a refused request changed something");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_paths_and_methods_are_refused_plainly() {
    let platform = Platform::start(Options::default()).await;
    let client = platform.client();
    for path in [
        "/",
        "/nowhere",
        "/orders",
        "/orders/",
        "/orders/nowhere/1",
        "/orders/checkout",
        "/orders/checkout/",
        "/orders/checkout/1/2",
        "/payment/add_funds/1/",
        "/stock/find/",
        "/stock/item/create/",
        "/ordersX/find/1",
        "/metrics",
    ] {
        for method in [Method::GET, Method::POST] {
            send(&client, &method, path).await.expect_problem(404, "no-such-route", path);
        }
    }
    for (method, path, _) in paths_with("1") {
        let other = if method == Method::GET { Method::POST } else { Method::GET };
        for method in [other, Method::PUT, Method::DELETE, Method::PATCH] {
            let answer = send(&client, &method, &path).await.expect_problem(405, "method-not-allowed", &path);
            assert!(!answer.header("allow").is_empty(), "RFC 9110 wants an Allow header with 405: {method} {path}");
        }
    }
    // Health is the gateway's own.
    client.get("/health/ready").await.expect_status(200);
}
