"""The demo page: a consumer and two views.

The template and the scripts are where Django looks for them: `templates/ws_support/demo.html` and
`static/ws_support/demo_*`.
"""
