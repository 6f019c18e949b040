"""An export as a Gradio app for a hosted Space."""
