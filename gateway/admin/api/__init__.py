"""`/api/v1`: one router per resource. Models say what is read and answered; operations do it."""
