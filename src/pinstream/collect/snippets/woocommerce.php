<?php
/**
 * Plugin Name: pinstream tag
 * Description: The tag on every page, the cart's and the orders' events, and the visitor's choice from the WP Consent API.
 *
 * Save it as wp-content/mu-plugins/pinstream.php. Pages may be cached: nothing about a visitor is written into them but
 * on the page behind an order, which no cache keeps.
 */

defined('ABSPATH') || exit;

add_filter('wp_consent_api_registered_' . plugin_basename(__FILE__), '__return_true');

add_action('wp_head', function () {
    echo '<script async src="{{script}}" data-site="{{site}}"{{attributes}}></script>' . "\n";
    echo '<script async src="{{folder}}/adapters/wp-consent.js"></script>' . "\n";
});

/** Calls pintrk, or leaves the call for the tag. */
function pinstream_track(string $name, array $data): void {
    $call = wp_json_encode(['track', $name, $data], JSON_HEX_TAG | JSON_HEX_AMP);
    wp_print_inline_script_tag(
        'window.pintrk||((window.pintrk=function(){pintrk.queue.push(arguments)}).queue=[]);pintrk.apply(null,' . $call . ')'
    );
}

/** The order's number is the event's id: a page that is opened again counts once. */
add_action('woocommerce_thankyou', function ($order_id) {
    $order = wc_get_order($order_id);
    if (!$order || $order->has_status('failed')) {
        return;
    }
    $items = [];
    foreach ($order->get_items() as $item) {
        $items[] = [
            'product_id' => (string) $item->get_product_id(),
            'product_name' => $item->get_name(),
            'product_price' => (float) $order->get_item_total($item, true),
            'product_quantity' => $item->get_quantity(),
        ];
    }
    $email = strtolower(trim($order->get_billing_email()));
    pinstream_track('checkout', [
        'event_id' => (string) $order->get_order_number(),
        'order_id' => (string) $order->get_order_number(),
        'value' => (float) $order->get_total(),
        'currency' => $order->get_currency(),
        'order_quantity' => $order->get_item_count(),
        'line_items' => $items,
        'em' => $email === '' ? '' : hash('sha256', $email),
    ]);
});

/** The cart button of lists adds without a new page, and says so by an event of jQuery; the product's page says so here. */
add_action('wp_footer', function () {
    wp_print_inline_script_tag(
        'window.jQuery&&jQuery(document.body).on("added_to_cart",function(e,f,h,b){' .
        'window.pintrk&&pintrk("track","addtocart",{line_items:[{' .
        'product_id:String(b.data("product_id")),product_quantity:Number(b.data("quantity"))||1}]})})'
    );
});

add_action('woocommerce_add_to_cart', function ($key, $product_id, $quantity) {
    if (!wp_doing_ajax() && !(defined('REST_REQUEST') && REST_REQUEST) && isset($_POST['add-to-cart'])) {
        $line = ['product_id' => (string) $product_id, 'product_quantity' => $quantity];
        add_action('wp_footer', fn () => pinstream_track('addtocart', ['line_items' => [$line]]));
    }
}, 10, 3);
