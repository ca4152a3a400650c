"""The explorer: a prediction as a page. Every number and word on it is what the command line prints.

`view` turns a prediction into plain JSON, `figures` into Plotly figures, `page` puts both into one HTML file, `server`
answers questions on localhost.
"""
