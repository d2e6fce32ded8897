"""The explorer: web pages to read the landscape with. It only reads, and knows no Dagster.

    guarding ─► routes ─► a page ─► landscape's queries
                             └────► rendering ─► templates, every text through `visible`

A page is a module with its functions from request to response; `routes` lists them all. Its queries are functions of
`landscape` modules, its template is in `templates`. To add one: write the module and the template, add a line in
`routes`, and link to it from where its reader comes from.
"""
