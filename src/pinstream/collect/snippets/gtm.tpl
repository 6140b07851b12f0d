___TERMS_OF_SERVICE___

By creating or modifying this file you agree to Google Tag Manager's Community
Template Gallery Developer Terms of Service available at
https://developers.google.com/tag-manager/gallery-tos (or such other URL as
Google may provide), as modified from time to time.


___INFO___

{
  "type": "TAG",
  "id": "cvt_temp_public_id",
  "version": 1,
  "securityGroups": [],
  "displayName": "pinstream",
  "description": "Sends events to your own pinstream collector.",
  "categories": ["ADVERTISING", "REMARKETING", "CONVERSIONS"],
  "brand": { "id": "brand_dummy", "displayName": "pinstream" },
  "containerContexts": ["WEB"]
}


___TEMPLATE_PARAMETERS___

[
  {
    "type": "TEXT", "name": "site", "displayName": "Tag id", "simpleValueType": true, "defaultValue": "{{site}}",
    "valueValidators": [{ "type": "NON_EMPTY" }]
  },
  {
    "type": "SELECT", "name": "event", "displayName": "Event", "simpleValueType": true, "macrosInSelect": true,
    "defaultValue": "pagevisit",
    "selectItems": [
      { "value": "pagevisit", "displayValue": "Page visit" },
      { "value": "viewcategory", "displayValue": "View category" },
      { "value": "search", "displayValue": "Search" },
      { "value": "addtocart", "displayValue": "Add to cart" },
      { "value": "initiatecheckout", "displayValue": "Initiate checkout" },
      { "value": "checkout", "displayValue": "Checkout (an order)" },
      { "value": "signup", "displayValue": "Sign up" },
      { "value": "lead", "displayValue": "Lead" },
      { "value": "other", "displayValue": "Another, named below" }
    ]
  },
  {
    "type": "TEXT", "name": "otherEvent", "displayName": "Its name", "simpleValueType": true,
    "enablingConditions": [{ "paramName": "event", "paramValue": "other", "type": "EQUALS" }],
    "valueValidators": [{ "type": "NON_EMPTY" }]
  },
  {
    "type": "SIMPLE_TABLE", "name": "fields", "displayName": "What is known about it", "newRowButtonText": "Add a field",
    "help": "event_id, value, currency, order_id, order_quantity, search_query, line_items (a variable that holds a list), em, ph, external_id, or any other name. E-mails and phone numbers are hashed in the browser.",
    "simpleTableColumns": [
      { "type": "TEXT", "name": "name", "displayName": "Field", "defaultValue": "", "isUnique": true },
      { "type": "TEXT", "name": "value", "displayName": "Value", "defaultValue": "" }
    ]
  },
  {
    "type": "CHECKBOX", "name": "consentMode", "checkboxText": "Consent is what Google Consent Mode says",
    "simpleValueType": true, "defaultValue": false,
    "help": "Only where a consent platform sets a default before this tag fires: without one, Tag Manager counts everything as granted. Else leave it off and call pintrk('setconsent', true) yourself."
  }
]


___SANDBOXED_JS_FOR_WEB_TEMPLATE___

const addConsentListener = require('addConsentListener');
const createArgumentsQueue = require('createArgumentsQueue');
const injectScript = require('injectScript');
const isConsentGranted = require('isConsentGranted');
const makeTableMap = require('makeTableMap');
const templateStorage = require('templateStorage');

const SIGNALS = ['ad_storage', 'ad_user_data'];
const pintrk = createArgumentsQueue('pintrk', 'pintrk.queue');

// Once a page, whichever tag of this template fires first.
if (!templateStorage.getItem('loaded')) {
  templateStorage.setItem('loaded', true);
  if (data.consentMode) {
    const granted = () => SIGNALS.every((signal) => isConsentGranted(signal));
    const say = (word) => pintrk('setconsent', word, 'adapter');
    // Denied is no answer yet: events wait for it. What is denied from now on is one; one signal of two is none.
    if (granted()) say(true);
    SIGNALS.forEach((signal) => addConsentListener(signal, (_, given) => {
      if (granted()) say(true);
      else if (!given) say(false);
    }));
  }
  pintrk('load', data.site);
}

pintrk('track', data.event === 'other' ? data.otherEvent : data.event, makeTableMap(data.fields || [], 'name', 'value') || {});
injectScript('{{script}}', data.gtmOnSuccess, data.gtmOnFailure, 'pinstream');


___WEB_PERMISSIONS___

[
  {
    "instance": {
      "key": { "publicId": "access_globals", "versionId": "1" },
      "param": [{ "key": "keys", "value": { "type": 2, "listItem": [
        { "type": 3,
          "mapKey": [{ "type": 1, "string": "key" }, { "type": 1, "string": "read" }, { "type": 1, "string": "write" }, { "type": 1, "string": "execute" }],
          "mapValue": [{ "type": 1, "string": "pintrk" }, { "type": 8, "boolean": true }, { "type": 8, "boolean": true }, { "type": 8, "boolean": true }] },
        { "type": 3,
          "mapKey": [{ "type": 1, "string": "key" }, { "type": 1, "string": "read" }, { "type": 1, "string": "write" }, { "type": 1, "string": "execute" }],
          "mapValue": [{ "type": 1, "string": "pintrk.queue" }, { "type": 8, "boolean": true }, { "type": 8, "boolean": true }, { "type": 8, "boolean": false }] }
      ] } }]
    },
    "clientAnnotations": { "isEditedByUser": true },
    "isRequired": true
  },
  {
    "instance": {
      "key": { "publicId": "inject_script", "versionId": "1" },
      "param": [{ "key": "urls", "value": { "type": 2, "listItem": [{ "type": 1, "string": "{{script}}" }] } }]
    },
    "clientAnnotations": { "isEditedByUser": true },
    "isRequired": true
  },
  {
    "instance": {
      "key": { "publicId": "access_consent", "versionId": "1" },
      "param": [{ "key": "consentTypes", "value": { "type": 2, "listItem": [
        { "type": 3,
          "mapKey": [{ "type": 1, "string": "consentType" }, { "type": 1, "string": "read" }, { "type": 1, "string": "write" }],
          "mapValue": [{ "type": 1, "string": "ad_storage" }, { "type": 8, "boolean": true }, { "type": 8, "boolean": false }] },
        { "type": 3,
          "mapKey": [{ "type": 1, "string": "consentType" }, { "type": 1, "string": "read" }, { "type": 1, "string": "write" }],
          "mapValue": [{ "type": 1, "string": "ad_user_data" }, { "type": 8, "boolean": true }, { "type": 8, "boolean": false }] }
      ] } }]
    },
    "clientAnnotations": { "isEditedByUser": true },
    "isRequired": true
  },
  {
    "instance": { "key": { "publicId": "access_template_storage", "versionId": "1" }, "param": [] },
    "clientAnnotations": { "isEditedByUser": true },
    "isRequired": true
  }
]


___TESTS___

scenarios: []


___NOTES___

Each page of the shop needs one tag of this template for its page visit, and one for each further event.
