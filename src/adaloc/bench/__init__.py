"""Long studies behind the claims that adaloc makes: commands whose results are kept as JSON."""
