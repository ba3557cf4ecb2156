"""The page: gradio lives only here. Everything it shows comes from the functions of kpop."""
